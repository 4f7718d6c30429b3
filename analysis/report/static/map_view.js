// The map of all features: each a point, near to those that it is like.
"use strict";
(() => {
  const h = (...given) => isae.h(...given);
  const KEYS = "Arrow keys move the map, plus and minus zoom, 0 shows all, Enter opens the feature in " +
    "the ring.";

  class MapView {
    constructor(overview) {
      this.layers = overview.layers.map((layer) => layer.name);
      this.none = overview.map === false ? "This report has no map." :
        typeof overview.map === "string" ? overview.map : null;
      this.panel = isae.filterPanel(this.layers);
      this.panel.element.open = false;
      this.count = h("p", { class: "tally" });
      this.chips = h("div", {});
      this.colour = h("select", {
        id: "colour", onchange: (event) => isae.goWith({ colour: event.target.value }),
      });
      this.legend = h("div", { class: "legend" });
      this.list = h("ol", { class: "near" });
      this.how = h("p", { class: "note" });
      this.tableLink = h("a", { class: "button" }, "As a table");
      this.trouble = h("div", {});
      this.element = h("div", { class: "view wide" }, this.top(), this.chips, this.trouble, this.body());
      this.stopScheme = isae.onScheme(() => this.table && this.paint());
      this.size = new ResizeObserver(() => this.points.fit() && this.draw());
      this.size.observe(this.canvas);
    }

    top() {
      return h("div", { class: "head" }, h("h1", { tabindex: "-1" }, "Map of features"), this.count,
        h("div", { class: "tools" }, this.tableLink));
    }

    body() {
      this.canvas = h("canvas", {
        class: "map", id: "map", tabindex: "0", role: "application", "aria-roledescription": "map",
        "aria-label": "Map of features", "aria-describedby": "map-keys",
        onkeydown: (event) => this.key(event), onfocus: () => this.rest(),
        onblur: () => this.draw(), onpointerdown: (event) => this.press(event),
        onpointermove: (event) => this.move(event), onpointerup: (event) => this.release(event),
        onpointerleave: () => this.tip(-1),
      });
      this.canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
      this.points = new isae.Points(this.canvas);
      const zoom = (text, name, by) => h("button", {
        type: "button", "aria-label": name, title: name, onclick: () => this.zoomBy(by),
      }, text);
      return h("div", { class: "map-split" },
        h("div", { class: "map-frame" }, this.canvas, h("div", { class: "zooms" },
          zoom("+", "Zoom in", 1.6), zoom("−", "Zoom out", 1 / 1.6),
          h("button", { type: "button", title: "Show all", onclick: () => this.reset() }, "All"))),
        h("aside", { class: "map-side", "aria-label": "Colours, filters and features in the middle" },
          h("div", { class: "field" }, h("label", { for: "colour" }, "Colour"), this.colour),
          this.legend, this.panel.element,
          h("h2", {}, "In the middle"),
          h("p", { class: "note", id: "map-keys" }, KEYS), this.list, this.how));
    }

    close() {
      this.stopScheme();
      this.size.disconnect();
      this.tip(-1);
      clearTimeout(this.resting);
    }

    async update(address) {
      const query = address.query;
      this.query = query;
      this.tableLink.href = isae.formatAddress("features", [], isae.filterQuery(query));
      if (this.none) {
        isae.replace(this.trouble, isae.absent(this.none + " The table shows every feature."));
        this.element.querySelector(".map-split").hidden = true;
        return;
      }
      if (!this.table) {
        const [map, table] = await Promise.all([isae.load("map"), isae.table(this.layers)]);
        this.place(map, table);
      }
      if (this.query !== query) return; // the reader has gone on
      this.show(query);
    }

    /** The map's rows follow its own list of layers; the table's follow the report's. */
    place(map, table) {
      const x = isae.uint16(map.x), y = isae.uint16(map.y);
      const left = new Float32Array(table.length).fill(NaN);
      const top = new Float32Array(table.length).fill(NaN);
      let at = 0;
      for (const layer of map.layers) {
        const part = table.parts.find((one) => one.layer === layer);
        const first = table.rowOf(layer, 0);
        for (let i = 0; i < (part?.features ?? 0); i++, at++) {
          if (x[at] === 65535 && y[at] === 65535) continue;
          left[first + i] = x[at] / 65534;
          top[first + i] = 1 - y[at] / 65534;
        }
      }
      if (at !== x.length || at !== y.length) {
        throw new Error(`The map has ${x.length} places for ${at} features of its layers: ` +
          "data/map.js and data/columns belong to different reports. Make the report again.");
      }
      this.table = table;
      this.without = left.reduce((sum, value) => sum + (Number.isNaN(value) ? 1 : 0), 0);
      this.points.place(left, top);
      this.how.textContent = map.how || "How the map was made is not recorded.";
      const choices = table.columns.filter((column) => column.kind !== "text" && column.name !== "feature");
      isae.replace(this.colour, choices.map((column) => {
        const option = h("option", {}, column.group ? `${column.title} (${column.group})` : column.title);
        option.value = column.name;
        return option;
      }));
    }

    show(query) {
      const at = (isae.one(query, "at") || "").split(",").map(Number);
      const good = at.length === 3 && at.every(Number.isFinite) && at[2] > 0;
      this.points.view = good ? { x: at[0], y: at[1], zoom: at[2] } : { x: 0.5, y: 0.5, zoom: 1 };
      this.matching = isae.matching(this.table, query);
      const asked = isae.one(query, "colour");
      this.by = this.table.byName.has(asked) ? asked
        : this.table.byName.has("branch") ? "branch" : "layer";
      this.colour.value = this.by;
      this.panel.sync(this.table, query);
      isae.replace(this.chips, isae.filterChips(this.table, query, this.matching.unknown));
      const all = this.matching.count === this.table.length;
      const text = (all ? isae.many(this.table.length, "feature")
        : `${isae.count(this.matching.count)} of ${isae.many(this.table.length, "feature")}`) +
        (this.without ? `; ${isae.count(this.without)} have no place on the map` : "");
      if (this.count.textContent !== text) isae.say(text);
      this.count.textContent = text;
      this.paint();
    }

    paint() {
      const key = JSON.stringify([this.by, isae.isDark(), isae.filterQuery(this.query)]);
      if (this.painted !== key) {
        const held = this.legend.contains(document.activeElement)
          ? [...this.legend.querySelectorAll("button")].indexOf(document.activeElement) : -1;
        const colouring = isae.colouring(this.table, this.by, this.query);
        this.points.paint(colouring.rgb, this.matching.mask);
        isae.replace(this.legend, colouring.element);
        this.legend.querySelectorAll("button")[held]?.focus();
        this.painted = key;
      }
      this.draw();
      this.middle();
    }

    draw() {
      if (!this.table || !this.painted) return;
      const style = getComputedStyle(this.canvas);
      const colour = (name) => isae.rgb(style.getPropertyValue(name).trim());
      const focused = document.activeElement === this.canvas;
      this.points.draw(colour("--map"), colour("--faint"), focused ? this.nearest() : -1);
    }

    soon() {
      if (this.asked) return;
      this.asked = requestAnimationFrame(() => {
        this.asked = 0;
        this.draw();
      });
    }

    nearest() {
      const { clientWidth, clientHeight } = this.canvas;
      return this.points.near(clientWidth / 2, clientHeight / 2, 1, clientWidth / 4)[0] ?? -1;
    }

    describe(at) {
      const name = `${this.table.layerOf(at)} ${this.table.featureOf(at)}`;
      const value = this.table.cell(this.by, at);
      const shown = typeof value === "number" ? isae.number(value) : value;
      const label = this.table.byName.has("label") ? this.table.cell("label", at) : null;
      const title = this.table.byName.get(this.by).title;
      return { name, label, value: shown === null ? null : `${title}: ${shown}` };
    }

    /** The features in the middle as links: the map for readers without a pointer. */
    middle() {
      const { clientWidth, clientHeight } = this.canvas;
      const near = this.points.near(clientWidth / 2, clientHeight / 2, 12, clientWidth / 3);
      isae.replace(this.list, near.length ? near.map((at) => {
        const said = this.describe(at);
        return h("li", {}, h("a", {
          href: isae.featureAddress(this.table.layerOf(at), this.table.featureOf(at)),
        }, said.name), said.label ? ` ${said.label}` : "");
      }) : h("li", { class: "note" }, "No chosen feature is near the middle."));
    }

    /** Once the map stands still its place goes into the address. */
    rest() {
      clearTimeout(this.resting);
      this.soon();
      this.resting = setTimeout(() => {
        const { x, y, zoom } = this.points.view;
        const whole = x === 0.5 && y === 0.5 && zoom === 1;
        isae.goWith({ at: whole ? null : [x, y, zoom].map(isae.plain).join(",") }, true);
        this.middle();
        if (document.activeElement !== this.canvas) return;
        const at = this.nearest();
        const said = at < 0 ? null : this.describe(at);
        isae.say(said ? [said.name, said.label, said.value].filter(Boolean).join(", ")
          : "No feature in the middle.");
      }, 250);
    }

    zoomBy(factor, left, top) {
      const view = this.points.view;
      const zoom = Math.max(0.5, Math.min(400, view.zoom * factor));
      const hold = left === undefined ? [view.x, view.y] : this.points.toMap(left, top);
      const keep = view.zoom / zoom;
      view.x = hold[0] + (view.x - hold[0]) * keep;
      view.y = hold[1] + (view.y - hold[1]) * keep;
      view.zoom = zoom;
      this.rest();
    }

    reset() {
      this.points.view = { x: 0.5, y: 0.5, zoom: 1 };
      this.rest();
    }

    pan(left, top) {
      const scale = this.points.scale() / this.points.ratio;
      this.points.view.x -= left / scale;
      this.points.view.y -= top / scale;
      this.rest();
    }

    key(event) {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const step = this.canvas.clientWidth / 8;
      const moves = { ArrowLeft: [step, 0], ArrowRight: [-step, 0],
        ArrowUp: [0, step], ArrowDown: [0, -step] };
      if (event.key in moves) this.pan(...moves[event.key]);
      else if (event.key === "+" || event.key === "=") this.zoomBy(1.6);
      else if (event.key === "-") this.zoomBy(1 / 1.6);
      else if (event.key === "0") this.reset();
      else if (event.key === "Enter") this.open(this.nearest());
      else return;
      event.preventDefault();
    }

    wheel(event) {
      event.preventDefault();
      this.zoomBy(Math.exp(-event.deltaY / 300), event.offsetX, event.offsetY);
    }

    press(event) {
      if (event.button !== 0) return;
      this.canvas.setPointerCapture(event.pointerId);
      this.held = { x: event.clientX, y: event.clientY, moved: 0 };
      this.tip(-1);
    }

    move(event) {
      if (!this.table) return;
      if (!this.held) {
        const at = this.points.near(event.offsetX, event.offsetY, 1, 8)[0] ?? -1;
        this.tip(at, event);
        return;
      }
      const left = event.clientX - this.held.x, top = event.clientY - this.held.y;
      this.held = { x: event.clientX, y: event.clientY,
        moved: this.held.moved + Math.abs(left) + Math.abs(top) };
      if (this.held.moved > 4) this.pan(left, top);
    }

    release(event) {
      const click = this.held && this.held.moved <= 4;
      this.held = null;
      if (click) this.open(this.points.near(event.offsetX, event.offsetY, 1, 8)[0] ?? -1);
    }

    open(at) {
      if (at >= 0) isae.go(isae.featureAddress(this.table.layerOf(at), this.table.featureOf(at)));
    }

    tip(at, event) {
      const box = document.getElementById("tooltip");
      this.canvas.classList.toggle("over", at >= 0);
      box.hidden = at < 0;
      if (at < 0) return;
      const said = this.describe(at);
      isae.replace(box, h("strong", {}, said.name), said.label ? h("span", {}, said.label) : null,
        said.value ? h("span", {}, said.value) : null);
      const room = 16 + box.offsetWidth;
      const right = event.clientX + room > innerWidth;
      box.style.left = (right ? event.clientX - room : event.clientX + 14) + "px";
      box.style.top = Math.min(event.clientY + 14, innerHeight - box.offsetHeight - 8) + "px";
    }
  }

  isae.views = { ...isae.views, map: MapView };
})();
