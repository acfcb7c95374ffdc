"""How the page looks: colours, fonts, style sheet and the few lines of JavaScript. All of it is local."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import gradio as gr

FOLDER = Path(__file__).parent
STYLE_SHEET = FOLDER / "page.css"
SCRIPT = FOLDER / "page.js"
SYSTEM_FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
MONOSPACE_FONTS = ("ui-monospace", "Menlo", "Consolas", "monospace")


def page_theme() -> gr.themes.Base:
    """Colours and fonts; the fonts are the reader's own, so none is fetched."""
    import gradio as gr

    theme = gr.themes.Soft(primary_hue="teal", neutral_hue="slate", font=list(SYSTEM_FONTS), font_mono=list(MONOSPACE_FONTS))
    # White on the theme's own light teal is hard to read.
    return theme.set(
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_text_color="white",
        block_label_text_color="*primary_800",
        block_title_text_color="*primary_800",
    )


def page_head() -> str:
    """What stands in the page's head: its script."""
    return f"<script>{SCRIPT.read_text(encoding='utf-8')}</script>"
