"""Jobs on a cluster: what they are started with, their progress and logs, and what the page shows of them."""
