"use strict";
// Tables that can be sorted by any column and copied whole.

// columns: {name, value: (row) => number or string or null, format, word}; rows: () => array
function sortable({ columns, rows, caption, best }) {
  let sorted = null, down = false;
  const body = el("tbody"), heads = columns.map((column, n) => el("th",
    { scope: "col", class: column.word ? "word" : null, "aria-sort": "none" }, el("button", { type: "button", onclick: () => order(n) }, column.name)));
  const table = el("table", { "aria-label": caption }, el("thead", {}, el("tr", {}, heads)), body);
  const shown = (column, row) => {
    const value = column.value(row);
    return value === null || value === undefined ? "–" : column.format ? column.format(value, row) : String(value);
  };
  function order(n) {
    down = sorted === n ? !down : !columns[n].word;
    sorted = n;
    heads.forEach((head, k) => head.setAttribute("aria-sort", k !== n ? "none" : down ? "descending" : "ascending"));
    update();
  }
  function arranged() {
    const all = [...rows()];
    if (sorted === null) return all;
    const value = columns[sorted].value, sign = down ? -1 : 1;
    return all.sort((a, b) => {
      const [p, q] = [value(a), value(b)];
      if (p === null || q === null || p === undefined || q === undefined) return ((p ?? null) === null) - ((q ?? null) === null);
      return sign * (typeof p === "number" ? p - q : String(p).localeCompare(String(q), "en", { numeric: true }));
    });
  }
  function update() {
    body.replaceChildren(...arranged().map((row) => el("tr", { class: best && best(row) ? "best" : null },
      columns.map((column) => el("td", { class: column.word ? "word" : null }, shown(column, row))))));
  }
  // Numbers as programs read them: a hyphen for minus, nothing between thousands, nothing where there is no value.
  const plain = (text) => (text === "–" ? "" : text.replace(/\u2212/g, "-").replace(/(\d),(?=\d{3})/g, "$1"));
  async function copy(event) {
    const text = [columns.map((column) => column.name), ...arranged().map((row) => columns.map((column) => plain(shown(column, row))))]
      .map((cells) => cells.join("\t")).join("\n");
    const button = event.currentTarget, said = (words) => { button.textContent = words; setTimeout(() => { button.textContent = "Copy table"; }, 1500); };
    try { await navigator.clipboard.writeText(text); said("Copied"); } catch { said(copyBySelection(text) ? "Copied" : "Select it and copy"); }
  }
  update();
  return { node: el("div", {}, el("p", { class: "note" }, caption), el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption }, table),
    el("button", { type: "button", class: "quiet", onclick: copy }, "Copy table")), update };
}
function copyBySelection(text) {
  const area = el("textarea", {});
  area.value = text;
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  return done;
}
