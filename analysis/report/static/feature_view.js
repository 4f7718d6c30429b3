// One feature: where it is active, what it is made of, what it is like.
"use strict";
(() => {
  const h = (...given) => isae.h(...given);
  const CHUNK = 64; // features of one details file
  const KEPT = 6; // details files kept in memory
  const kept = [];

  async function details(layer, feature) {
    const name = `details/${layer}/${Math.floor(feature / CHUNK)}`;
    const chunk = await isae.load(name);
    if (kept.includes(name)) kept.splice(kept.indexOf(name), 1);
    kept.push(name);
    if (kept.length > KEPT) isae.forget(kept.shift());
    const entry = chunk[feature % CHUNK];
    if (entry?.feature !== feature) {
      throw new Error(`data/${name}.js does not hold feature ${feature}: ` +
        "the report is damaged; make it again.");
    }
    return entry;
  }

  class FeatureView {
    constructor(overview) {
      this.layers = overview.layers;
      this.element = h("div", { class: "view feature" }, h("h1", { tabindex: "-1" }, "Feature"));
    }

    close() {}

    async update(address) {
      const [name, text] = address.parts;
      const layer = this.layers.find((one) => one.name === name);
      const feature = Number(text);
      const wrong = this.wrong(layer, name, feature, text);
      if (wrong) {
        isae.replace(this.element, h("h1", { tabindex: "-1" }, "No such feature"), isae.trouble(wrong));
        return;
      }
      this.asked = address;
      const heat = isae.one(address.query, "heat") !== "off";
      if (this.shown === `${name}/${feature}`) {
        this.replacePatches(heat);
        return;
      }
      const [entry, table] = await Promise.allSettled([
        layer.has?.details === false ? Promise.resolve({ feature }) : details(name, feature),
        isae.table([name])]);
      if (this.asked !== address) return; // the reader has gone on
      this.shown = `${name}/${feature}`;
      this.show(layer, feature, entry, table, heat);
    }

    wrong(layer, name, feature, text) {
      if (!layer) {
        const names = this.layers.map((one) => one.name).join(", ");
        return `This report has no layer '${name ?? ""}'; it has ${names}.`;
      }
      if (!/^\d+$/.test(text ?? "") || feature >= layer.features) {
        return `${name} has ${isae.many(layer.features, "feature")}, 0 to ${layer.features - 1}; ` +
          `'${text ?? ""}' is none of them.`;
      }
      return null;
    }

    show(layer, feature, entry, table, heat) {
      const troubles = [entry, table].filter((one) => one.status === "rejected")
        .map((one) => isae.trouble(one.reason.message));
      const known = entry.value ?? { feature };
      const rows = table.value ?? null;
      this.layer = layer;
      this.entry = known;
      isae.replace(this.element, this.head(layer, feature, rows), troubles,
        known.dead || known.density?.rate === 0
          ? isae.absent("This feature is dead: it was never active in the pictures measured.") : null);
      if (entry.status === "rejected") return;
      const parts = isae.parts;
      this.patches = parts.patches(known, layer, heat);
      const columns = {
        "main-parts": [this.patches, parts.pictures(known, layer), parts.tuning(known, layer)],
        "side-parts": [parts.labels(known, layer), parts.branches(known, layer), parts.density(known, layer),
          parts.neighbours(known, layer, rows), parts.matches(known, layer)],
      };
      const nothing = (part) => part.dataset.nothing === "yes";
      const all = Object.values(columns).flat();
      this.element.append(h("div", { class: "parts" }, Object.entries(columns).map(([name, list]) =>
        h("div", { class: name }, list.filter((part) => !nothing(part))))),
      h("div", { class: "unknown" }, all.filter(nothing)));
      if (rows) this.element.append(parts.values(rows, rows.rowOf(layer.name, feature)));
    }

    head(layer, feature, table) {
      const step = (to, text, name) => to < 0 || to >= layer.features
        ? h("span", { class: "button off", "aria-disabled": "true" }, text)
        : h("a", { class: "button", href: isae.featureAddress(layer.name, to), rel: name,
          "aria-label": `${name === "prev" ? "Previous" : "Next"} feature, ${layer.name} ${to}` }, text);
      const row = table ? table.rowOf(layer.name, feature) : -1;
      const cell = (name) => (table?.byName.has(name) ? table.cell(name, row) : null);
      const label = cell("label");
      const chips = ["taxonomy", "branch", "lies_in"]
        .filter((name) => (cell(name) ?? "none") !== "none")
        .map((name) => h("li", {}, h("a", {
          class: "chip",
          href: isae.formatAddress("features", [], { layer: layer.name, ["is." + name]: cell(name) }),
        }, `${table.byName.get(name).title}: ${cell(name)}`)));
      return h("div", { class: "feature-head" },
        h("nav", { "aria-label": "Features beside this one", class: "steps" },
          step(feature - 1, "‹ Previous", "prev"), step(feature + 1, "Next ›", "next")),
        this.inList(layer, feature),
        h("h1", { tabindex: "-1" }, `${layer.name} ${feature}`),
        table?.byName.has("label")
          ? h("p", { class: label ? "feature-label" : "feature-label absent" }, label || "no label") : null,
        chips.length ? h("ul", { class: "chips", "aria-label": "What it is" }, chips) : null);
    }

    /** Its neighbours in the table that the reader comes from, in that table's order. */
    inList(layer, feature) {
      const { table, rows, address } = isae.list ?? {};
      const at = rows ? rows.indexOf(table.rowOf(layer.name, feature)) : -1;
      if (at < 0) return null;
      const link = (place, text) => {
        if (place < 0 || place >= rows.length) return null;
        const name = [table.layerOf(rows[place]), table.featureOf(rows[place])];
        return h("a", { href: isae.featureAddress(...name) }, `${text} ${name.join(" ")}`);
      };
      return h("nav", { class: "in-list", "aria-label": "In the table you come from" },
        h("a", { href: address }, `${isae.count(at + 1)} of ${isae.count(rows.length)} in the table`),
        link(at - 1, "before:"), link(at + 1, "after:"));
    }

    replacePatches(heat) {
      if (!this.patches) return;
      const focused = document.activeElement?.id === "heat";
      const next = isae.parts.patches(this.entry, this.layer, heat);
      this.patches.replaceWith(next);
      this.patches = next;
      if (focused) document.getElementById("heat")?.focus();
    }
  }

  isae.views = { ...isae.views, feature: FeatureView };
})();
