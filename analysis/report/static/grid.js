// A table of very many rows: those in sight, and a few around, are in the page.
"use strict";
(() => {
  const ROW = 34; // pixels, as in style.css
  const AROUND = 6;

  class Grid {
    /** label: what the table shows; onSort(name), onOpen(row): what a reader asked for. */
    constructor({ label, onSort, onOpen }) {
      this.onSort = onSort;
      this.onOpen = onOpen;
      this.rows = new Uint32Array(0);
      this.active = 0;
      this.head = isae.h("tr", {});
      this.above = isae.h("tr", { class: "spacer", "aria-hidden": "true" }, isae.h("td", {}));
      this.below = isae.h("tr", { class: "spacer", "aria-hidden": "true" }, isae.h("td", {}));
      this.body = isae.h("tbody", {}, this.above, this.below);
      this.columns = isae.h("colgroup", {});
      this.table = isae.h("table", {
        class: "grid", role: "grid", tabindex: "0", "aria-label": label,
        onkeydown: (event) => this.key(event),
      }, this.columns, isae.h("thead", {}, this.head), this.body);
      this.scroller = isae.h("div", { class: "scroller", onscroll: () => this.soon() }, this.table);
      this.lines = [];
      this.size = new ResizeObserver(() => this.soon());
      this.size.observe(this.scroller);
    }

    close() {
      this.size.disconnect();
    }

    /** Show these rows of a table, in these columns. */
    show(table, columns, rows, sort) {
      const other = this.shown !== columns.join("\n") || this.source !== table;
      this.source = table;
      this.names = columns;
      this.rows = rows;
      if (other) this.heads();
      this.sorted(sort);
      this.table.setAttribute("aria-rowcount", rows.length + 1);
      this.active = Math.min(this.active, Math.max(0, rows.length - 1));
      this.first = -1;
      this.draw();
    }

    heads() {
      this.shown = this.names.join("\n");
      const of = this.names.map((name) => this.source.byName.get(name));
      const width = (column) => ({ layer: 5.4, feature: 4.6 })[column.name]
        ?? { text: 11, category: 7, number: 5.2 }[column.kind];
      isae.replace(this.columns, of.map((column) => isae.h("col", { span: "1" })));
      of.forEach((column, at) => { this.columns.children[at].style.width = width(column) + "rem"; });
      this.table.style.minWidth = of.reduce((sum, column) => sum + width(column), 0) + "rem";
      isae.replace(this.head, of.map((column, at) => isae.h("th", {
        scope: "col", "data-name": column.name, class: column.kind, "aria-colindex": at + 1,
      }, isae.h("button", {
        type: "button", title: column.help, onclick: () => this.onSort(column.name),
      }, isae.h("span", { class: "title" }, column.title),
        column.unit ? isae.h("span", { class: "unit" }, " " + column.unit) : null,
        isae.h("span", { class: "arrow", "aria-hidden": "true" })))));
      this.head.setAttribute("aria-rowindex", "1");
      for (const line of this.lines) line.element.remove();
      this.lines = [];
      for (const spacer of [this.above, this.below]) spacer.firstChild.colSpan = of.length;
    }

    sorted(sort) {
      for (const head of this.head.children) {
        const here = head.dataset.name === sort.name;
        if (here) head.setAttribute("aria-sort", sort.descending ? "descending" : "ascending");
        else head.removeAttribute("aria-sort");
      }
    }

    soon() {
      if (this.asked) return;
      this.asked = requestAnimationFrame(() => {
        this.asked = 0;
        this.draw();
      });
    }

    /** Put the rows in sight into the lines of the table. */
    draw() {
      if (!this.source) return;
      const inSight = Math.ceil(this.scroller.clientHeight / ROW) || 1;
      const want = Math.min(this.rows.length, inSight + 2 * AROUND);
      const first = Math.max(0, Math.min(this.rows.length - want,
        Math.floor(this.scroller.scrollTop / ROW) - AROUND));
      if (first === this.first && want === this.lines.length) return;
      while (this.lines.length < want) this.lines.push(this.line());
      while (this.lines.length > want) this.lines.pop().element.remove();
      this.above.style.height = first * ROW + "px";
      this.below.style.height = (this.rows.length - first - want) * ROW + "px";
      this.first = first;
      this.lines.forEach((line, at) => this.write(line, first + at));
      this.mark();
    }

    line() {
      const cells = this.names.map((name, at) => isae.h("td", {
        role: "gridcell", "aria-colindex": at + 1, class: this.source.byName.get(name).kind,
      }));
      const link = isae.h("a", { tabindex: "-1" });
      const at = this.names.indexOf("feature");
      if (at >= 0) cells[at].append(link);
      const element = isae.h("tr", {
        onclick: (event) => event.target.closest("a") || this.onOpen(Number(element.dataset.row)),
      }, cells);
      this.below.before(element);
      return { element, cells, link };
    }

    write(line, place) {
      const row = this.rows[place];
      line.element.id = "row-" + place;
      line.element.dataset.row = row;
      line.element.setAttribute("aria-rowindex", place + 2);
      this.names.forEach((name, at) => {
        const value = this.source.cell(name, row);
        if (name === "feature") {
          line.link.textContent = value;
          line.link.href = isae.featureAddress(this.source.layerOf(row), value);
        } else {
          line.cells[at].textContent = typeof value === "number" ? isae.number(value) : value ?? "–";
        }
      });
    }

    /** Make the row that the keyboard is on known. */
    mark() {
      this.lines.forEach((line, at) =>
        line.element.classList.toggle("active", this.first + at === this.active));
      const there = this.active >= this.first && this.active < this.first + this.lines.length;
      if (there) this.table.setAttribute("aria-activedescendant", "row-" + this.active);
      else this.table.removeAttribute("aria-activedescendant");
    }

    key(event) {
      if (event.target !== this.table || event.ctrlKey || event.metaKey || event.altKey) return;
      const page = Math.max(1, Math.floor(this.scroller.clientHeight / ROW) - 2);
      const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page,
        Home: -Infinity, End: Infinity };
      if (event.key === "Enter" && this.rows.length) this.onOpen(this.rows[this.active]);
      else if (!(event.key in steps)) return;
      else this.step(steps[event.key]);
      event.preventDefault();
    }

    step(by) {
      this.active = Math.max(0, Math.min(this.rows.length - 1, this.active + by));
      const top = this.active * ROW, head = this.head.offsetHeight;
      const room = this.scroller.clientHeight - head;
      if (top < this.scroller.scrollTop) this.scroller.scrollTop = top;
      else if (top + ROW > this.scroller.scrollTop + room) this.scroller.scrollTop = top + ROW - room;
      this.draw();
      this.mark();
    }
  }

  isae.Grid = Grid;
})();
