"""Faults in the layout of a page: text that is cut or out of sight, texts that overlap, words that are broken."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Page

FAULTS = r"""
() => {
  const faults = [];
  const name = (element, text) => {
    const place = element.closest("[id]")?.id ?? "";
    return `${element.tagName.toLowerCase()}.${element.className?.baseVal ?? element.className} in ${place}: ${text.slice(0, 60)}`;
  };
  const seen = (element) => element.checkVisibility({ checkOpacity: true, checkVisibilityCSS: true });
  const style = (element) => getComputedStyle(element);
  // The next box around an element that scrolls, so that a person can bring the element into sight.
  const scrolls = (element) => {
    for (let box = element; box && box !== document.body; box = box.parentElement) {
      if (/auto|scroll/.test(style(box).overflowX) && box.scrollWidth > box.clientWidth) return box;
    }
    return null;
  };
  const texts = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode, element = node.parentElement;
    const isUnseen = element.closest("script, style, title, option, .sr-only, [aria-hidden=true]");
    if (!node.data.trim() || isUnseen || !seen(element)) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    const boxes = [...range.getClientRects()].filter((box) => box.width > 1 && box.height > 1);
    if (boxes.length) texts.push({ node, element, boxes, range });
  }
  const width = document.documentElement.clientWidth;
  const needed = document.documentElement.scrollWidth;
  if (needed > width) faults.push(`the page is ${needed} px wide on ${width}`);
  for (const { node, element, boxes, range } of texts) {
    const scroller = scrolls(element);
    for (const box of boxes) {
      if (scroller || (box.right <= width + 1 && box.left >= -1)) continue;
      faults.push("out of sight: " + name(element, node.data));
      break;
    }
    // A box that cuts what does not fit.
    for (let box = element; box && box !== document.body; box = box.parentElement) {
      if (box === scroller) break;
      const { overflowX, overflowY } = style(box), frame = box.getBoundingClientRect();
      const isCut = boxes.some((text) => (overflowX !== "visible" && (text.right > frame.right + 2 || text.left < frame.left - 2))
        || (/hidden|clip/.test(overflowY) && (text.bottom > frame.bottom + 3 || text.top < frame.top - 3)));
      if (isCut) { faults.push("cut: " + name(box, node.data)); break; }
    }
    // A word on two lines, though it would fit on one.
    if (element.closest("pre, textarea, [data-breaks]")) continue;
    for (const word of node.data.matchAll(/[\p{L}\p{N}]{2,}/gu)) {
      range.setStart(node, word.index);
      range.setEnd(node, word.index + word[0].length);
      const lines = [...range.getClientRects()].filter((box) => box.width > 0);
      if (lines.length < 2 || style(element).writingMode !== "horizontal-tb") continue;
      const needs = lines.reduce((sum, box) => sum + box.width, 0);
      const has = element.closest("p, li, td, th, dd, dt, div, button, label, h2").getBoundingClientRect().width;
      if (lines[1].top > lines[0].top + 3 && needs < has - 56) faults.push("broken word: " + name(element, word[0]));
    }
  }
  // Texts of different elements in the same place. What stays in sight while a box scrolls lies over the rest.
  const isOver = (element) => element.closest(".manta-matrix, #manta-said, [role=listbox]");
  const flat = texts.filter(({ element }) => !isOver(element));
  // A box that scrolls shows a part of its text only.
  const isShown = (element, box) => {
    for (let around = element; around && around !== document.body; around = around.parentElement) {
      const frame = around.getBoundingClientRect();
      if (style(around).overflowY !== "visible" && (box.top < frame.top - 3 || box.bottom > frame.bottom + 3)) return false;
    }
    return true;
  };
  const all = flat
    .flatMap(({ node, element, boxes }) => boxes.map((box) => ({ node, element, box })))
    .filter(({ element, box }) => isShown(element, box));
  all.sort((a, b) => a.box.top - b.box.top);
  for (let i = 0; i < all.length; i++) {
    for (let j = i + 1; j < all.length && all[j].box.top < all[i].box.bottom - 3; j++) {
      const [a, b] = [all[i], all[j]];
      if (a.node === b.node || scrolls(a.element) !== scrolls(b.element)) continue;
      const across = Math.min(a.box.right, b.box.right) - Math.max(a.box.left, b.box.left);
      const down = Math.min(a.box.bottom, b.box.bottom) - Math.max(a.box.top, b.box.top);
      if (across > 3 && down > 4) faults.push(`overlap: ${name(a.element, a.node.data)} and ${name(b.element, b.node.data)}`);
    }
  }
  return [...new Set(faults)];
}
"""


def layout_faults(page: Page) -> list[str]:
    """Return the faults of what the page shows now, one line for each; empty if there is none."""
    found: list[str] = page.evaluate(FAULTS)
    return found
