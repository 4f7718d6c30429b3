// From the address to the view.
"use strict";
(() => {
  const TITLES = { overview: "Overview", map: "Map", features: "Table" };
  let overview = null, current = null, first = true;

  function title(address) {
    return address.view === "feature" ? address.parts.join(" ") : TITLES[address.view] || "Not found";
  }

  /** What a view is of: its query may change without the reader leaving it. */
  const place = (address) => [address.view, ...address.parts].join("/");

  function open(address) {
    const main = document.getElementById("main");
    current?.view.close();
    const View = isae.views[address.view];
    const view = View ? new View(overview) : unknown(address);
    current = { view, kind: address.view };
    isae.replace(main, view.element);
    for (const link of document.querySelectorAll("[data-view]")) {
      if (link.dataset.view === address.view) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
  }

  function unknown(address) {
    return { close() {}, async update() {}, element: isae.h("div", { class: "view" },
      isae.h("h1", { tabindex: "-1" }, "No such page"),
      isae.trouble(`This report has no page '${address.view}'; it has an overview, a map and a table.`)) };
  }

  async function show() {
    const address = isae.parseAddress(location.hash);
    const moved = place(address) !== current?.place;
    if (address.view !== current?.kind) open(address);
    current.place = place(address);
    document.title = `${title(address)} – ${overview.title}`;
    const view = current.view;
    const main = document.getElementById("main");
    main.setAttribute("aria-busy", "true");
    try {
      await view.update(address);
      view.element.querySelector(":scope > .failed")?.remove();
    } catch (error) {
      view.element.querySelector(":scope > .failed")?.remove();
      view.element.append(isae.h("div", { class: "failed" }, isae.trouble(error.message)));
    }
    if (current.view !== view) return;
    main.removeAttribute("aria-busy");
    main.dataset.shown = location.hash;
    performance.mark("shown");
    if (moved && !first) arrive(view);
    first = false;
  }

  /** A reader who cannot see the page change is told where they are. */
  function arrive(view) {
    scrollTo(0, 0);
    view.element.querySelector("h1")?.focus({ preventScroll: true });
  }

  async function start() {
    const main = document.getElementById("main");
    try {
      overview = await isae.load("overview");
    } catch (error) {
      isae.replace(main, isae.h("h1", {}, "This report cannot be shown"), isae.trouble(error.message));
      return;
    }
    document.getElementById("brand").textContent = overview.title;
    document.getElementById("skip").addEventListener("click", (event) => {
      event.preventDefault(); // the address is the state of the view, not a place in the page
      main.focus();
    });
    isae.layerNames = new Set(overview.layers.map((layer) => layer.name));
    isae.startSearch(overview);
    isae.onScheme(() => { // colours of drawings are settled when they are made
      if (current?.kind === "feature") { current = null; show(); }
    });
    addEventListener("hashchange", show);
    await show();
  }

  start();
})();
