"""The page and its tabs, one module each. A tab's `build(services, frame)` is called inside its `gr.Tab`."""
