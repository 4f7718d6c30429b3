// The whole state of a view stands in the address behind "#", so every link can be shared.
//   #/overview   #/map?colour=branch&layer=mixed4c   #/features?sort=-rate&is.branch=5x5
//   #/feature/LAYER/NUMBER
"use strict";
(() => {
  /** {view, parts, query}: query maps a name to the list of its values. */
  isae.parseAddress = (hash) => {
    const text = hash.startsWith("#/") ? hash.slice(2) : "overview";
    const [path, search = ""] = text.split(/\?(.*)/s);
    const query = {};
    for (const [name, value] of new URLSearchParams(search)) (query[name] ??= []).push(value);
    const parts = path.split("/").map(decode);
    return { view: parts[0] || "overview", parts: parts.slice(1), query };
  };

  function decode(part) {
    try {
      return decodeURIComponent(part);
    } catch {
      return part; // a stray % that a reader typed
    }
  }

  /** The text behind "#" for a view; empty values are left out. */
  isae.formatAddress = (view, parts, query) => {
    const search = new URLSearchParams();
    for (const [name, values] of Object.entries(query || {})) {
      for (const value of [values].flat()) {
        if (value !== null && value !== undefined && value !== "") search.append(name, value);
      }
    }
    const path = [view, ...(parts || [])].map(encodeURIComponent).join("/");
    const tail = search.toString();
    return "#/" + path + (tail ? "?" + tail : "");
  };

  isae.featureAddress = (layer, feature) => isae.formatAddress("feature", [layer, feature]);

  /** Go there; `quietly` changes the address without a new step for the back button. */
  isae.go = (address, quietly) => {
    if (address === location.hash) return;
    if (quietly) location.replace(address);
    else location.hash = address;
  };

  /** The same view with some of the query changed; null removes. */
  isae.goWith = (changes, quietly) => {
    const now = isae.parseAddress(location.hash);
    const query = { ...now.query, ...changes };
    isae.go(isae.formatAddress(now.view, now.parts, query), quietly);
  };

  isae.one = (query, name) => query[name]?.[0] ?? null;
})();
