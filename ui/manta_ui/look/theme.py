"""Colors and fonts of the page, its style sheets, and a few lines of JavaScript."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import gradio as gr

FOLDER = Path(__file__).parent
STYLE_SHEETS = (FOLDER / "page.css", FOLDER / "data.css")
SCRIPTS = (FOLDER / "page.js", FOLDER / "data.js")
SYSTEM_FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
MONOSPACE_FONTS = ("ui-monospace", "Menlo", "Consolas", "monospace")


def page_theme() -> gr.themes.Base:
    """Return the colors and fonts. It uses fonts of the reader's system, so that none is fetched."""
    import gradio as gr

    theme = gr.themes.Soft(
        primary_hue="teal",
        secondary_hue="slate",
        neutral_hue="slate",
        radius_size="md",
        spacing_size="md",
        font=list(SYSTEM_FONTS),
        font_mono=list(MONOSPACE_FONTS),
    )
    # White on the theme's light teal is hard to read, and so is teal text on a light background.
    return theme.set(
        body_background_fill="*neutral_50",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_800",
        button_secondary_background_fill_hover_dark="*neutral_600",
        button_primary_text_color="white",
        button_secondary_border_color="*neutral_300",
        button_border_width="1px",
        block_border_width="0px",
        block_shadow="none",
        block_shadow_dark="none",
        block_background_fill="transparent",
        block_background_fill_dark="transparent",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_label_text_color="*neutral_700",
        block_label_text_color_dark="*neutral_200",
        block_title_background_fill="transparent",
        block_title_background_fill_dark="transparent",
        block_title_text_color="*neutral_700",
        block_title_text_color_dark="*neutral_200",
        block_title_padding="0",
        block_title_radius="0",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        button_primary_shadow="none",
        button_primary_shadow_hover="none",
        button_secondary_shadow="none",
        button_secondary_shadow_hover="none",
        checkbox_label_shadow="none",
        input_border_width="1px",
        input_border_color="*neutral_300",
        input_border_color_dark="*neutral_600",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        input_shadow="none",
        checkbox_border_color="*neutral_500",
        checkbox_border_color_dark="*neutral_400",
        slider_color="*primary_700",
        slider_color_dark="*primary_400",
        link_text_color="*primary_700",
        link_text_color_dark="*primary_300",
    )


def page_head() -> str:
    """Return the content of the page's head: its scripts."""
    return "".join(f"<script>{script.read_text(encoding='utf-8')}</script>" for script in SCRIPTS)
