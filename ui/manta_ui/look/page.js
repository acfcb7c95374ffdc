// What the page does without asking its server.
