"use strict";
for (const form of document.querySelectorAll(".filter")) {
  const body = form.nextElementSibling.querySelector("tbody"), words = form.querySelector("input"),
    level = form.querySelector("select"), shown = form.querySelector("output");
  const filter = () => {
    const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const row of body.rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !(wanted.every(word => text.includes(word)) && (!level.value || row.dataset.level === level.value));
      count += !row.hidden;
    }
    shown.value = `${count} of ${body.rows.length} ${body.rows.length === 1 ? "row" : "rows"}`;
  };
  form.addEventListener("submit", event => event.preventDefault());
  words.addEventListener("input", filter);
  level.addEventListener("change", filter);
}
const collator = new Intl.Collator("en", {numeric: true});
for (const table of document.querySelectorAll("table.cards")) {
  const headers = [...table.querySelectorAll("th")], body = table.tBodies[0];
  headers.forEach((header, column) => header.querySelector("button").addEventListener("click", () => {
    const down = header.getAttribute("aria-sort") === "ascending";
    headers.forEach(other => other.setAttribute("aria-sort", "none"));
    header.setAttribute("aria-sort", down ? "descending" : "ascending");
    const text = row => row.cells[column].textContent.trim();
    const rows = [...body.rows].sort((a, b) => collator.compare(text(a), text(b)));
    body.append(...(down ? rows.reverse() : rows));
  }));
}
