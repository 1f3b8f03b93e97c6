// Tables that are sorted by a click on a heading, and that change only the cells that have changed.

import { element, setText } from "./text.js";

export class Table {
  // columns: {name, text(row), key(row) to sort by, number, bad(row)}; open(row): what a click on a row does.
  constructor(table, columns, { open = null, empty = "none", sort = null, down = false } = {}) {
    this.columns = columns;
    this.open = open;
    this.empty = empty;
    this.sort = sort;
    this.down = down;
    this.rows = [];
    this.shown = [];
    this.buttons = columns.map((column, place) => this.heading(column, place));
    const head = element("tr");
    this.buttons.forEach((button, place) => {
      const cell = element("th", "", columns[place].number ? "number" : "");
      cell.append(button);
      head.append(cell);
    });
    const thead = element("thead");
    thead.append(head);
    this.body = element("tbody");
    table.replaceChildren(thead, this.body);
    this.body.addEventListener("click", (event) => this.clicked(event.target.closest("tr")));
    this.body.addEventListener("keydown", (event) => {
      if (event.key === "Enter") this.clicked(event.target.closest("tr"));
    });
  }

  heading(column, place) {
    const button = element("button", column.name);
    button.type = "button";
    button.addEventListener("click", () => {
      this.down = this.sort === place ? !this.down : Boolean(column.number);
      this.sort = place;
      this.update(this.rows);
    });
    return button;
  }

  clicked(line) {
    const row = line && this.shown[line.sectionRowIndex];
    if (row && this.open) this.open(row);
  }

  update(rows) {
    this.rows = rows;
    this.shown = this.sort === null ? rows : this.sorted(rows);
    this.buttons.forEach((button, place) => {
      const mark = place === this.sort ? (this.down ? " ↓" : " ↑") : "";
      setText(button, this.columns[place].name + mark);
    });
    if (!rows.length) {
      if (!this.body.querySelector(".none")) {
        const cell = element("td", this.empty, "none");
        cell.colSpan = this.columns.length;
        const line = element("tr");
        line.append(cell);
        this.body.replaceChildren(line);
      }
      return;
    }
    this.body.querySelector(".none")?.parentNode.remove();
    while (this.body.rows.length > rows.length) this.body.lastChild.remove();
    while (this.body.rows.length < rows.length) this.body.append(this.line());
    this.shown.forEach((row, number) => this.fill(this.body.rows[number], row));
  }

  sorted(rows) {
    const key = this.columns[this.sort].key || this.columns[this.sort].text;
    const sign = this.down ? -1 : 1;
    return rows
      .map((row, place) => ({ row, place, key: key(row) ?? -Infinity }))
      .sort((a, b) => (a.key < b.key ? -sign : a.key > b.key ? sign : a.place - b.place))
      .map((each) => each.row);
  }

  line() {
    const line = element("tr", "", this.open ? "open" : "");
    if (this.open) line.tabIndex = 0;
    for (const column of this.columns) line.append(element("td", "", column.number ? "number" : ""));
    return line;
  }

  fill(line, row) {
    this.columns.forEach((column, place) => {
      const cell = line.cells[place];
      const text = String(column.text(row));
      setText(cell, text);
      if (cell.title !== text && text.length > 40) cell.title = text;
      if (column.bad) cell.classList.toggle("bad", Boolean(column.bad(row)));
    });
  }
}
