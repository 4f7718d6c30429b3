// The parts of a feature's panel. Each is given what is known, and says so where nothing is.
"use strict";
(() => {
  const h = (...given) => isae.h(...given);

  /** A part with its heading; `extra`: controls beside the heading. */
  function section(name, title, content, extra) {
    return h("section", { class: "part", id: "part-" + name, "aria-labelledby": "head-" + name },
      h("div", { class: "part-head" }, h("h2", { id: "head-" + name }, title), extra), content);
  }

  /** A part of which nothing is known. */
  function nothing(name, title, text) {
    const element = section(name, title, text);
    element.dataset.nothing = "yes";
    return element;
  }

  /** Why a layer has no such part: the report's own words, or the command that makes it. */
  function absent(layer, part, what, command) {
    const has = layer.has?.[part];
    if (typeof has === "string") return isae.absent(has);
    if (has) return isae.absent(`None for this feature: ${what}.`);
    return isae.absent(`Not in this report: ${what}. ${command}`);
  }

  const run = (command) => `isae-analyze ${command} makes it; then make the report again.`;

  function patches(entry, layer, heat) {
    if (!entry.patches?.entries?.length) {
      return nothing("patches", "Patches", absent(layer, "patches",
        "patches of pictures where the feature is active", run("visualise")));
    }
    const placed = entry.patches.entries.some((one) => one.heat?.box);
    const toggle = placed ? h("button", {
      type: "button", class: "button", id: "heat", "aria-pressed": String(heat),
      onclick: () => isae.goWith({ heat: heat ? "off" : null }, true),
    }, "Heat maps") : h("span", { class: "note" }, "No heat maps: their places are not recorded.");
    const note = h("p", { class: "note" }, placed && heat
      ? "Bright: the feature's own value there, of its largest in the data; dark: it is silent, or no cell " +
        "is there. " : "",
    "q: the quantile of the value among its positive ones. Border: padding reaches the effective field, so " +
    "that the place itself may be what it answers to.");
    return section("patches", "Patches", [note, isae.patches(entry.patches, heat)], toggle);
  }

  function pictures(entry, layer) {
    if (!entry.pictures?.length) {
      return nothing("pictures", "Optimised pictures", absent(layer, "pictures",
        "pictures optimised to excite the feature", run("visualise RUN --visualise N")));
    }
    return section("pictures", "Optimised pictures", [
      h("p", { class: "note" }, "Reached: the feature's value for the picture. Best: its largest value in " +
        "the data. A picture proves little where it reaches less than the data does."),
      h("ul", { class: "pictures" }, entry.pictures.map((one) => {
        const name = one.branch ? `${one.kind}, ${one.branch} alone` : one.kind;
        const more = one.best > 0 ? one.reached / one.best : null;
        const image = h("img", { src: one.file.split("/").map(encodeURIComponent).join("/"),
          alt: `Optimised picture, ${name}: reaches ${isae.number(one.reached)}, ` +
            `the data's best is ${isae.number(one.best)}` });
        image.addEventListener("error", () => image.replaceWith(isae.trouble(`${one.file} is missing.`)));
        return h("li", {}, h("figure", {}, image, h("figcaption", {},
          h("strong", {}, name), h("span", {}, `reached ${isae.number(one.reached)}`),
          h("span", {}, `best in the data ${isae.number(one.best)}`),
          more === null ? null : h("span", { class: more > 1 ? "tag held" : "tag border" },
            `${isae.number(more)} × the best`))));
      }))]);
  }

  function branches(entry, layer) {
    if (!entry.branches?.length) {
      return nothing("branches", "Branches", absent(layer, "branches",
        "shares of the branches", run("branches")));
    }
    const rows = entry.branches.map((one, at) => [one.name,
      isae.bar(one.energy, isae.branchColour(one.name, at), one.expected), one.expected, one.scaled,
      isae.bar(one.causal, isae.branchColour(one.name, at)), one.q]);
    return section("branches", "Branches", [
      isae.plainTable("Shares of the branches", ["Branch",
        { title: "Energy", help: "share of the decoder's energy; the line: expected by chance" },
        { title: "Expected", help: "share expected of channels dealt at random" },
        { title: "Scaled", help: "share with each channel scaled by its deviation" },
        { title: "Causal", help: "part of the feature's value that the branch carries when it is swapped" },
        { title: "q", help: "false-discovery rate of an energy share as large" }], rows, { class: "branches" }),
      h("p", { class: "note" }, "The line in a bar: the share expected by chance.")]);
  }

  function labels(entry, layer) {
    if (!entry.labels?.length) {
      return nothing("labels", "Labels", absent(layer, "labels",
        "names that hold on images which they were not chosen on", run("label")));
    }
    return section("labels", "Labels", [
      isae.plainTable("Labels", ["Kind", "Name",
        { title: "Score", help: "on images that the name was not chosen on" },
        { title: "Chance", help: "the same score for shuffled images" },
        { title: "q", help: "false-discovery rate" }],
      entry.labels.map((one) => [one.kind, one.name || "–", one.score, one.chance, one.q])),
      h("p", { class: "note" }, "Names are chosen on one half of the images and scored on the other; " +
        "chance is the same for shuffled images.")]);
  }

  function tuning(entry, layer) {
    if (!entry.tuning?.length) {
      return nothing("tuning", "Tuning",
        absent(layer, "tuning", "answers to drawn stimuli", run("tuning")));
    }
    return section("tuning", "Tuning", h("div", { class: "charts" }, entry.tuning.map(isae.curve)));
  }

  function density(entry, layer) {
    const known = entry.density;
    if (!known) {
      return nothing("density", "Activity",
        absent(layer, "density", "how often it is active", run("branches")));
    }
    const facts = [["Active at", known.rate, isae.percent(known.rate) + " of places"],
      ["Mean where active", known.mean, isae.number(known.mean)],
      ["Largest", known.max, isae.number(known.max)]];
    return section("density", "Activity", [
      h("dl", { class: "facts" }, facts.map(([title, value, text]) => h("div", {}, h("dt", {}, title),
        h("dd", {}, value === null || value === undefined ? "not measured" : text)))),
      known.counts?.length ? h("div", { class: "charts" },
        isae.histogram("Values where it is active", known.edges, known.counts))
        : isae.absent("No histogram of its values in this report.")]);
  }

  /** A feature of a layer that has no pages here is only named. */
  function link(layer, feature) {
    if (!isae.layerNames.has(layer)) return `${layer} ${feature}`;
    return h("a", { href: isae.featureAddress(layer, feature) }, `${layer} ${feature}`);
  }

  function neighbours(entry, layer, table) {
    if (!entry.neighbours?.length) {
      return nothing("neighbours", "Neighbours in its layer", absent(layer, "neighbours",
        "features of the same layer with like directions",
        "Make the report from a run that holds its dictionary."));
    }
    const named = table?.byName.has("label");
    const shown = entry.patches?.sheet && entry.patches.entries.some((one) => one.group === "top");
    const rows = entry.neighbours.map((one) => [link(layer.name, one.feature),
      isae.bar(one.cosine, "var(--accent)"),
      ...(named ? [table.cell("label", table.rowOf(layer.name, one.feature)) ?? "–"] : []),
      ...(shown ? [isae.strip(entry.patches, one.feature, 3)] : [])]);
    return section("neighbours", "Neighbours in its layer",
      isae.plainTable("Neighbours", ["Feature", { title: "Cosine", help: "of the decoder directions" },
        ...(named ? ["Label"] : []), ...(shown ? ["Strongest patches"] : [])], rows));
  }

  function matches(entry, layer) {
    if (!entry.matches?.length) {
      return nothing("matches", "Matches in other layers", absent(layer, "matches",
        "features of other layers that go with it", run("layers")));
    }
    return section("matches", "Matches in other layers", [
      isae.plainTable("Matches", ["Feature",
        { title: "Score", help: "correlation; of the measure 'weights' z" },
        "Measure", { title: "q", help: "false-discovery rate" }],
      entry.matches.map((one) => [link(one.layer, one.feature), one.score, one.measure, one.q])),
      h("p", { class: "note" }, "The best partner by each measure, beyond chance or not: q says which. " +
        "Correlations are on the images that the partner was chosen on, so too large; the score of the " +
        "measure 'weights' is z, no correlation.")]);
  }

  /** Everything the table has for this feature. */
  function values(table, row) {
    const rows = table.columns.filter((column) => column.name !== "layer" && column.name !== "feature")
      .map((column) => [column.title + (column.unit ? ` (${column.unit})` : ""), table.cell(column.name, row),
        column.help || ""]);
    const part = section("values", "All values", []);
    part.append(h("details", {}, h("summary", {}, isae.many(rows.length, "column")),
      isae.plainTable("All values of this feature", ["Column", "Value", "Meaning"], rows)));
    return part;
  }

  isae.parts = { patches, pictures, branches, labels, tuning, density, neighbours, matches, values };
})();
