// The first page: what was found, on what, and what is missing.
"use strict";
(() => {
  const h = (...given) => isae.h(...given);
  const PARTS = [["patches", "Patches"], ["pictures", "Pictures"], ["labels", "Labels"],
    ["branches", "Branches"], ["tuning", "Tuning"], ["curves", "Curves"], ["matches", "Matches"],
    ["stability", "Seeds"]];

  function finding(one, at) {
    const id = "finding-" + at;
    const wide = one.table?.columns.length > 4;
    return h("article", { class: wide ? "finding whole" : "finding", "aria-labelledby": id },
      h("h3", { id }, one.title), one.text ? h("p", {}, one.text) : null,
      one.table ? isae.plainTable(one.title, one.table.columns, one.table.rows) : null,
      one.figure ? h("img", { src: one.figure.split("/").map(encodeURIComponent).join("/"),
        alt: one.alt || `Figure: ${one.title}`, loading: "lazy" }) : null,
      one.links?.length ? h("p", { class: "links" }, one.links.map((link) =>
        h("a", { href: safe(link.address) }, link.title))) : null);
  }

  /** Links of the data stay inside the report. */
  const safe = (address) => (/^#\//.test(address) ? address : "#/overview");

  function layerTable(layers) {
    const known = PARTS.filter(([part]) => layers.some((layer) => layer.has && part in layer.has));
    const rows = layers.map((layer) => [
      h("a", { href: isae.formatAddress("features", [], { layer: layer.name }) }, layer.name),
      layer.grid ? [layer.grid].flat().join(" × ") : null, layer.channels ?? null,
      (layer.branches || []).map((branch) => `${branch.name} ${branch.channels}`).join(", ") || null,
      layer.features, layer.dead ?? null,
      ...known.map(([part]) => (layer.has?.[part] === true ? "yes" : h("span", {
        class: "absent", title: typeof layer.has?.[part] === "string" ? layer.has[part] : null }, "no")))]);
    return isae.plainTable("Layers", ["Layer", { title: "Grid", help: "cells along each side" }, "Channels",
      "Branches (channels)", "Features", { title: "Dead", help: "never active in the pictures measured" },
      ...known.map(([, title]) => title)], rows, { class: "layers" });
  }

  /** Names and what they are; lists and names within names below each other. */
  function facts(pairs) {
    return h("dl", { class: "made" }, pairs.map(([title, value]) =>
      [h("dt", {}, title), h("dd", {}, fact(value))]));
  }

  function fact(value) {
    if (value === null || value === undefined || value === "") return "–";
    if (typeof value === "number") return isae.number(value);
    if (Array.isArray(value)) return value.length ? value.map((one) => h("div", {}, fact(one))) : "–";
    return typeof value === "object" ? facts(Object.entries(value)) : String(value);
  }

  /** What the report says is missing, and what the layers lack besides. */
  function missing(overview) {
    const said = (overview.missing || []).map((one) => h("li", {}, one.what, one.how ? ": " : null,
      one.how ? h("code", {}, one.how) : null));
    if (!said.length) {
      for (const [part, title] of PARTS) {
        const without = overview.layers.filter((layer) => layer.has?.[part] === false);
        const names = without.map((one) => one.name).join(", ");
        if (names) said.push(h("li", {}, `${title}: not of ${names}`));
      }
      if (overview.map === false) said.push(h("li", {}, "The map of features"));
    }
    for (const layer of overview.layers) {
      const reasons = PARTS.map(([part]) => layer.has?.[part]).filter((why) => typeof why === "string");
      for (const why of new Set(reasons)) said.push(h("li", {}, `${layer.name}: ${why}`));
    }
    return said.length ? h("ul", {}, said)
      : h("p", { class: "note" }, "Nothing: every part of this report was made for every layer.");
  }

  class OverviewView {
    constructor(overview) {
      const features = overview.layers.reduce((sum, layer) => sum + layer.features, 0);
      const dead = overview.layers.reduce((sum, layer) => sum + (layer.dead || 0), 0);
      const part = (id, title, ...content) =>
        h("section", { "aria-labelledby": id }, h("h2", { id }, title), content);
      this.element = h("div", { class: "view overview" },
        h("h1", { tabindex: "-1" }, overview.title),
        h("p", { class: "lead" }, isae.many(features, "feature"), " of ",
          isae.many(overview.layers.length, "layer"),
          dead ? `, ${isae.count(dead)} of them never active` : "", ". ",
          "See them ", overview.map === false ? null : [h("a", { href: "#/map" }, "on a map"), " or "],
          h("a", { href: "#/features" }, "in a table"), "."),
        part("findings", "Findings", overview.findings?.length
          ? h("div", { class: "findings" }, overview.findings.map(finding))
          : isae.absent("No findings are in this report: no analysis with statistics was found.")),
        part("layers", "Layers", layerTable(overview.layers)),
        overview.images?.length ? part("images", "Measured on",
          facts(overview.images.map((one) => [one.title, one.text]))) : null,
        part("missing", "What is missing", missing(overview)),
        overview.made_of ? part("made", "Made of", facts(Object.entries(overview.made_of))) : null,
        overview.notes?.length
          ? part("notes", "Notes", h("ul", {}, overview.notes.map((note) => h("li", {}, note)))) : null);
    }

    close() {}

    async update() {}
  }

  isae.views = { ...isae.views, overview: OverviewView };
})();
