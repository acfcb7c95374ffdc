"""The page's tabs, one module each, with `build(services, frame)` that is called inside its `gr.Tab`."""
