// Tables that a click on a heading sorts. How one was sorted is remembered by its name, and done again when it is drawn anew.
(() => {
  const chosen = new Map();

  const keyOf = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.value === undefined ? cell.textContent : Number(cell.dataset.value.replace("inf", "Infinity"));
  };

  const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true }));

  const sort = (table, { column, direction }) => {
    const heads = [...table.tHead.rows[0].cells];
    if (column >= heads.length) return;
    heads.forEach((head, index) => (index === column ? head.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending") : head.removeAttribute("aria-sort")));
    const rows = [...table.tBodies[0].rows];
    rows.sort((a, b) => direction * compare(keyOf(a, column), keyOf(b, column)));
    table.tBodies[0].append(...rows);
  };

  const again = (root) => {
    for (const table of root.querySelectorAll("table[data-sort-name]:not([data-sorted])")) {
      table.dataset.sorted = "";
      if (chosen.has(table.dataset.sortName)) sort(table, chosen.get(table.dataset.sortName));
    }
  };

  document.addEventListener("click", (event) => {
    const head = event.target.closest?.(".manta-table thead th");
    if (!head) return;
    const table = head.closest("table");
    const before = chosen.get(table.dataset.sortName);
    const direction = before?.column === head.cellIndex ? -before.direction : table.tBodies[0].querySelector(`td:nth-child(${head.cellIndex + 1})[data-value]`) ? -1 : 1;
    chosen.set(table.dataset.sortName, { column: head.cellIndex, direction });
    sort(table, chosen.get(table.dataset.sortName));
  });

  // A line of a chart, or a row of a table, makes all with its name stand out.
  const light = (event) => {
    const found = event.target.closest?.(".manta-series, tr:has([data-series])");
    const name = found && (found.dataset.series ?? found.querySelector("[data-series]").dataset.series);
    document.documentElement.classList.toggle("manta-lights", Boolean(name));
    for (const item of document.querySelectorAll(".manta-series, tr:has([data-series])")) {
      item.classList.toggle("manta-lit", Boolean(name) && (item.dataset.series ?? item.querySelector("[data-series]").dataset.series) === name);
    }
  };
  document.addEventListener("pointerover", (event) => {
    if (document.querySelector(".manta-series")) light(event);
  });

  new MutationObserver(() => again(document)).observe(document.documentElement, { childList: true, subtree: true });
})();
