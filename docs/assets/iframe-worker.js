// Search runs in a worker, which browsers refuse to pages that were opened as files. There, an
// invisible frame takes its place: it has the three functions of a worker that the search uses.
if (location.protocol === "file:")
  window.Worker = class extends EventTarget {
    constructor(address) {
      super();
      this.waiting = []; // what was sent before the script had run
      const base = new URL(address, location.href);
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      const inside = frame.contentWindow;
      const load = (source) =>
        new Promise((done, failed) => {
          const script = inside.document.createElement("script");
          Object.assign(script, { src: new URL(source, base), onload: done, onerror: failed });
          inside.document.body.append(script);
        });
      inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      inside.importScripts = (...sources) => // one after the other: each needs those before it
        sources.reduce((before, source) => before.then(() => load(source)), Promise.resolve());
      this.deliver = (data) => inside.dispatchEvent(new MessageEvent("message", { data }));
      load(base).then(() => {
        this.waiting.forEach(this.deliver);
        this.waiting = null;
      });
    }
    postMessage(data) {
      this.waiting ? this.waiting.push(data) : this.deliver(data);
    }
    terminate() {}
  };
