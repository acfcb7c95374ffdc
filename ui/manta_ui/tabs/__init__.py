"""The page's tabs, one module each. Each has `build(services, frame)`, which is called inside the tab's `gr.Tab`."""
