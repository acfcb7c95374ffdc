// What the page does without asking its server. Loaded in the head, before gradio draws anything.
"use strict";

window.manta = (() => {
  const THEME = "manta-theme";
  const boxes = () => ["#text textarea", "#second-text textarea"].map((found) => document.querySelector(found));

  // Gradio hears of a box's content by its input event.
  const fill = (box, content) => {
    if (!box) return;
    box.value = content;
    box.dispatchEvent(new Event("input", { bubbles: true }));
  };

  const say = (words) => {
    let line = document.getElementById("manta-said");
    if (!line) {
      line = document.createElement("div");
      line.id = "manta-said";
      line.setAttribute("role", "status");
      document.body.append(line);
    }
    line.textContent = words;
    line.classList.add("manta-saying");
    clearTimeout(say.timer);
    say.timer = setTimeout(() => line.classList.remove("manta-saying"), 2500);
  };

  // Browsers give a page its clipboard only on this machine or over TLS; elsewhere the old way still works.
  const copy = async (content) => {
    try {
      await navigator.clipboard.writeText(content);
    } catch {
      const box = document.createElement("textarea");
      box.value = content;
      document.body.append(box);
      box.select();
      document.execCommand("copy");
      box.remove();
    }
    say("Copied");
  };

  // The text stands after the #, which browsers send to no server.
  const copyLink = (text, second) => {
    const texts = second ? [text, second] : [text];
    const link = location.origin + location.pathname + "#" + texts.map(encodeURIComponent).join("&");
    history.replaceState(null, "", link);
    return copy(link);
  };

  const fromLink = (text, second) => {
    const parts = location.hash.slice(1).split("&");
    if (!parts[0]) return [text ?? "", second ?? ""];
    try {
      const [linked, other] = parts.map(decodeURIComponent);
      setTimeout(() => document.querySelector("#classify")?.click(), 50);
      return [linked, other ?? ""];
    } catch {
      return [text ?? "", second ?? ""]; // not a link of ours
    }
  };

  // A button of gradio's that is not seen tells the server what was meant; `said` is its script.
  let meant = "";
  const press = (name, content = {}) => {
    meant = JSON.stringify(content);
    document.getElementById(name)?.click();
  };
  const said = (_, ...others) => [meant, ...others];

  // The row of the tab Correct, while it is in sight and was not judged yet.
  const shownRow = () => {
    const row = document.querySelector("#queue-card .manta-queue:not(.manta-sent)");
    return row?.checkVisibility() ? row : null;
  };
  const judge = (row, labels) => {
    row.classList.add("manta-sent");
    press("queue-say", { row: Number(row.dataset.row), labels });
    setTimeout(() => row.classList.remove("manta-sent"), 3000); // if it was refused
  };
  // Keys go to the rows, no longer to the button that brought them.
  const toQueue = () => {
    const card = document.getElementById("queue-card");
    card.tabIndex = -1;
    card.focus();
    return [];
  };
  const pressed = (row) => [...row.querySelectorAll("button[aria-pressed=true]")].map((button) => button.dataset.label);
  // Enter presses a button that has the focus; one of a tab that is out of sight may still have it.
  const presses = (element) => element.closest?.("button, a, summary")?.checkVisibility();
  const confirmRow = () => {
    const row = shownRow();
    if (row) judge(row, "several" in row.dataset ? pressed(row) : [...row.querySelectorAll(".manta-given")].map((button) => button.dataset.label));
  };
  const chooseLabel = (button) => {
    const row = shownRow();
    if (!row) return;
    if ("several" in row.dataset) button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
    else judge(row, [button.dataset.label]);
  };

  // The suspect of the tab Labels. Each of its buttons has a key; those that decide say what.
  const shownSuspect = () => {
    const row = document.querySelector("#labels-card .manta-suspect:not(.manta-sent)");
    return row?.checkVisibility() ? row : null;
  };
  const decide = (button) => {
    const row = shownSuspect();
    if (!row) return;
    row.classList.add("manta-sent");
    press("labels-decide", { row: Number(row.dataset.row), ...JSON.parse(button.dataset.decide) });
    setTimeout(() => row.classList.remove("manta-sent"), 3000); // if it was refused
  };

  const download = (name, content) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([content], { type: "text/plain" }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  };

  // A session that has ended: the page, loaded again, asks for the password.
  const ask = window.fetch.bind(window);
  window.fetch = async (...request) => {
    const answer = await ask(...request);
    if (answer.status === 401 && /\/gradio_api\/(queue|run)\//.test(answer.url)) location.reload();
    return answer;
  };

  const setTheme = (theme) => document.body.classList.toggle("dark", theme === "dark");

  addEventListener("DOMContentLoaded", () => {
    const chosen = localStorage.getItem(THEME);
    if (!chosen) return;
    // Gradio sets the system's theme once it has drawn the page; the reader's choice comes after it.
    new MutationObserver(() => {
      const wanted = localStorage.getItem(THEME) === "dark";
      if (document.body.classList.contains("dark") !== wanted) setTheme(wanted ? "dark" : "light");
    }).observe(document.body, { attributes: true, attributeFilter: ["class"] });
    setTheme(chosen);
  });

  addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    const form = event.target.closest?.("#text, #second-text, #compare-text, #compare-second");
    if (!form) return;
    event.preventDefault();
    document.querySelector(form.id.startsWith("compare") ? "#compare-button" : "#classify")?.click();
  });

  addEventListener("keydown", (event) => {
    const row = shownRow();
    const isTyping = event.target.closest?.("input, textarea, select, [contenteditable=true]");
    if (!row || isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
    const choice = /^[1-9]$/.test(event.key) && row.querySelectorAll("button[data-label]")[Number(event.key) - 1];
    if (choice) chooseLabel(choice);
    else if (event.key === "Enter" && !presses(event.target)) confirmRow();
    else if (event.key === "ArrowRight" && !event.target.closest?.("[role=tab]")) press("queue-skip");
    else if (event.key === "ArrowLeft" && !event.target.closest?.("[role=tab]")) press("queue-back");
    else return;
    event.preventDefault();
  });

  addEventListener("keydown", (event) => {
    const row = shownSuspect();
    const isTyping = event.target.closest?.("input, textarea, select, [contenteditable=true]");
    if (!row || isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
    const button = [...row.querySelectorAll("button[data-key]")].find((found) => found.dataset.key === event.key.toLowerCase());
    if (!button) return;
    button.click();
    event.preventDefault();
  });

  addEventListener("click", (event) => {
    const decision = event.target.closest?.("button[data-decide]");
    if (decision) decide(decision);
    const chosen = event.target.closest?.("button[data-texts]");
    if (chosen) {
      const texts = JSON.parse(chosen.dataset.texts);
      boxes().forEach((box, index) => fill(box, texts[index] ?? ""));
      // After gradio has taken the content over.
      setTimeout(() => document.querySelector("#classify")?.click(), 0);
    }
    const opened = event.target.closest?.("button[data-review]");
    if (opened) press("batch-review", { row: Number(opened.dataset.review) });
    const named = event.target.closest?.("button[data-click]");
    if (named) press(named.dataset.click);
    if (event.target.closest?.("button[data-confirm]")) confirmRow();
    const label = event.target.closest?.("button[data-label]");
    if (label) chooseLabel(label);
    if (event.target.closest?.("button[data-manta=theme]")) {
      const theme = document.body.classList.contains("dark") ? "light" : "dark";
      localStorage.setItem(THEME, theme);
      setTheme(theme);
    }
  });

  return { copy, copyLink, download, fromLink, said, toQueue };
})();
