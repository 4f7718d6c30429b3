// Data come as scripts: a page opened from disk may not fetch files, but it may add scripts.
"use strict";
window.isae = (() => {
  const values = new Map();
  const waiting = new Map();

  /** Called by the data scripts. */
  function take(name, value) {
    values.set(name, value);
  }

  /** The address of a data script; every part of its name may hold any character. */
  function addressOf(name) {
    return "data/" + name.split("/").map(encodeURIComponent).join("/") + ".js";
  }

  /** The value of a data script, read once. Rejects with words for the reader. */
  function load(name) {
    if (!waiting.has(name)) {
      waiting.set(name, read(name).catch((error) => {
        waiting.delete(name); // the next visit tries again
        throw error;
      }));
    }
    return waiting.get(name);
  }

  function read(name) {
    if (values.has(name)) return Promise.resolve(values.get(name));
    return new Promise((resolve, reject) => {
      const script = document.createElement("script");
      const fail = (what) => reject(new Error(
        `The file ${addressOf(name)} ${what}. ` +
        "Make the report again with isae-analyze report, or copy its whole folder."));
      script.onload = () => {
        script.remove();
        if (values.has(name)) resolve(values.get(name));
        else fail("is damaged or belongs to another report");
      };
      script.onerror = () => {
        script.remove();
        fail("is missing");
      };
      script.src = addressOf(name);
      document.head.append(script);
    });
  }

  /** Forget a value that is large and seldom looked at again. */
  function forget(name) {
    values.delete(name);
    waiting.delete(name);
  }

  /** Bytes of a base64 text. */
  function bytes(text) {
    if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
    const plain = atob(text);
    const out = new Uint8Array(plain.length);
    for (let i = 0; i < plain.length; i++) out[i] = plain.charCodeAt(i);
    return out;
  }

  /** Typed arrays of base64 texts; the files hold little-endian numbers, as every browser does. */
  const float32 = (text) => new Float32Array(bytes(text).buffer);
  const uint16 = (text) => new Uint16Array(bytes(text).buffer);

  return { take, load, forget, bytes, float32, uint16 };
})();
