// The table of every feature: filters beside it, columns to choose, the rows as a file.
"use strict";
(() => {
  const h = (...given) => isae.h(...given);

  const left = new Map(); // where a reader was in the table of an address, for the way back

  class TableView {
    constructor(overview) {
      this.layers = overview.layers.map((layer) => layer.name);
      this.panel = isae.filterPanel(this.layers);
      this.count = h("p", { class: "tally", id: "tally" });
      this.chips = h("div", {});
      this.chooser = h("details", { class: "chooser" },
        h("summary", {}, "Columns"), h("div", { class: "sheet" }));
      this.mapLink = h("a", { class: "button" }, "On the map");
      this.grid = new isae.Grid({
        label: "Features; arrow keys move, Enter opens a feature",
        onSort: (name) => this.sortBy(name),
        onOpen: (row) => isae.go(isae.featureAddress(this.table.layerOf(row), this.table.featureOf(row))),
      });
      this.trouble = h("div", {});
      this.element = h("div", { class: "view wide" },
        h("div", { class: "head" }, h("h1", { tabindex: "-1" }, "Table of features"), this.count,
          h("div", { class: "tools" }, this.mapLink, this.chooser,
            h("button", { type: "button", class: "button", id: "csv", onclick: () => this.save() },
              "Download CSV"))),
        this.chips, this.trouble,
        h("div", { class: "split" },
          h("section", { "aria-label": "Filters" }, this.panel.element), this.grid.scroller));
    }

    close() {
      left.set(this.address, { top: this.grid.scroller.scrollTop, active: this.grid.active });
      this.grid.close();
    }

    async update(address) {
      const query = address.query;
      this.query = query;
      this.address = location.hash;
      this.mapLink.href = isae.formatAddress("map", [], isae.filterQuery(query));
      const layers = isae.layersOf(query, this.layers);
      if (!layers.length) {
        isae.replace(this.trouble, isae.trouble(
          `This report has no layer '${isae.one(query, "layer")}'; it has ${this.layers.join(", ")}.`));
        return;
      }
      const table = await isae.table(layers);
      if (this.query !== query) return; // the reader has gone on
      isae.replace(this.trouble);
      this.show(table, query);
    }

    show(table, query) {
      const other = this.table !== table;
      this.table = table;
      const matching = isae.matching(table, query);
      const asked = isae.sortOf(query);
      const sort = table.byName.has(asked.name) ? asked : { name: "layer", descending: false };
      this.names = this.columnsOf(query);
      const rows = isae.orderedRows(table, matching, sort);
      const key = JSON.stringify([isae.filterQuery(query), sort]);
      if (this.key !== undefined && this.key !== key) this.grid.scroller.scrollTop = this.grid.active = 0;
      this.key = key;
      const back = other ? left.get(this.address) : null;
      if (back) this.grid.active = back.active;
      this.grid.show(table, this.names, rows, sort);
      if (back) this.grid.scroller.scrollTop = back.top;
      this.panel.sync(table, query);
      isae.replace(this.chips, isae.filterChips(table, query, matching.unknown));
      if (other || !this.chooser.contains(document.activeElement)) this.fillChooser();
      isae.list = { table, rows, address: this.address }; // a feature's page steps through it
      this.tell(rows.length, table.length, sort);
    }

    tell(count, all, sort) {
      const text = count === all ? isae.many(count, "feature")
        : `${isae.count(count)} of ${isae.many(all, "feature")}`;
      this.count.textContent = text;
      const by = sort.name === "layer" ? "" :
        `, sorted by ${this.table.byName.get(sort.name).title}, ` +
        `${sort.descending ? "largest" : "smallest"} first`;
      isae.say(text + by);
    }

    columnsOf(query) {
      const known = (query.show || []).filter((name) => this.table.byName.has(name));
      const names = known.length ? known : this.table.usual();
      return ["layer", "feature", ...names.filter((name) => name !== "layer" && name !== "feature")];
    }

    /** Numbers begin with their largest: that is what a reader looks for. */
    sortBy(name) {
      const now = isae.sortOf(this.query);
      const first = this.table.byName.get(name).kind === "number" && name !== "feature";
      const descending = now.name === name ? !now.descending : first;
      isae.goWith({ sort: (descending ? "-" : "") + name });
    }

    fillChooser() {
      const groups = new Map();
      for (const column of this.table.columns) {
        if (column.name === "layer" || column.name === "feature") continue;
        const group = column.group || "Columns";
        if (!groups.has(group)) groups.set(group, []);
        groups.get(group).push(column);
      }
      isae.replace(this.chooser.lastChild, [...groups].map(([group, columns]) =>
        h("fieldset", {}, h("legend", {}, group), columns.map((column) =>
          h("label", { class: "choice", title: column.help }, h("input", {
            type: "checkbox", checked: this.names.includes(column.name),
            onchange: (event) => this.choose(column.name, event.target.checked),
          }), h("span", {}, column.title))))));
    }

    choose(name, wanted) {
      const others = this.names.filter((one) => one !== name && one !== "layer" && one !== "feature");
      isae.goWith({ show: wanted ? [...others, name] : others }, true);
    }

    save() {
      isae.download("features.csv", isae.csv(this.table, this.names, this.grid.rows));
      isae.say(`${isae.many(this.grid.rows.length, "feature")} written to features.csv`);
    }
  }

  isae.views = { ...isae.views, features: TableView };
})();
