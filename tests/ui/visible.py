"""The positions of a text's lines in the browser window, and whether each line is fully visible."""

from __future__ import annotations

from dataclasses import dataclass

from playwright.sync_api import Locator, Page, ViewportSize, expect

_MEASURE = """
(element, text) => {
    const ROUNDING = 0.5;
    const nodes = [];
    const walker = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) nodes.push(walker.currentNode);
    const start = nodes.map(node => node.data).join('').indexOf(text);
    if (start < 0) return null;

    const at = offset => {
        for (const node of nodes) {
            if (offset <= node.length) return [node, offset];
            offset -= node.length;
        }
    };

    // The area that ancestors which scroll or hide their overflow leave visible.
    const area = {left: 0, top: 0, right: innerWidth, bottom: innerHeight};
    for (let parent = element; parent; parent = parent.parentElement) {
        const style = getComputedStyle(parent);
        if (style.overflowX === 'visible' && style.overflowY === 'visible') continue;
        const box = parent.getBoundingClientRect();
        const left = box.left + parent.clientLeft, top = box.top + parent.clientTop;
        area.left = Math.max(area.left, left);
        area.top = Math.max(area.top, top);
        area.right = Math.min(area.right, left + parent.clientWidth);
        area.bottom = Math.min(area.bottom, top + parent.clientHeight);
    }

    let offset = start;
    return text.split('\\n').map(line => {
        const range = document.createRange();
        range.setStart(...at(offset));
        range.setEnd(...at(offset + line.length));
        offset += line.length + 1;
        const box = range.getBoundingClientRect();
        const middle = (box.top + box.bottom) / 2;
        const covered = [box.left + 1, (box.left + box.right) / 2, box.right - 1].some(x => {
            const top = document.elementFromPoint(x, middle);
            return !top || !element.contains(top);
        });
        return {
            text: line,
            left: box.left, top: box.top, right: box.right, bottom: box.bottom,
            hidden: [
                box.left < area.left - ROUNDING && 'left', box.right > area.right + ROUNDING && 'right',
                box.top < area.top - ROUNDING && 'above', box.bottom > area.bottom + ROUNDING && 'below',
                covered && 'covered',
            ].filter(Boolean).join(', '),
        };
    });
}
"""


@dataclass(frozen=True)
class Line:
    """
    One line of a text on the page, in CSS pixels of the window.

    :param hidden: the sides at which it is cut off, or ``covered``; empty if the whole line is visible.
    """

    text: str
    left: float
    top: float
    right: float
    bottom: float
    hidden: str


def lines(element: Locator, text: str) -> list[Line]:
    """Return the lines of a text in an element, once their positions no longer change."""
    before = None
    # The log viewer scrolls to its end after it has shown the text.
    for _ in range(20):
        found = element.evaluate(_MEASURE, text)
        assert found is not None, f"{element} does not hold {text!r}, but {element.text_content()!r}"
        if found == before:
            break
        before = found
        element.page.wait_for_timeout(500)
    return [Line(**line) for line in found]


def hidden(element: Locator, text: str) -> list[str]:
    """Return the lines of a text in an element that are not fully visible, each with the reason."""
    return [f"{line.hidden}: {line.text}" for line in lines(element, text) if line.hidden]


def too_long(page: Page, events: list[str]) -> list[str]:
    """Return the lines of these log messages that are wider than the window, at any scroll position."""
    window = page.viewport_size
    assert window
    page.set_viewport_size(ViewportSize(width=window["width"], height=4000))
    found = []
    for event in events:
        shown = page.locator(".event").filter(has_text=event).first
        expect(shown).to_be_visible()
        found += hidden(shown, event)
    return found
