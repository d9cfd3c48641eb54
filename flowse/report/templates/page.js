"use strict";
// Tables that are sorted and filtered, explanations, and the player: one position, several versions.
(() => {
  const by = (id) => document.getElementById(id);
  const readJson = (id) => (by(id) ? JSON.parse(by(id).textContent) : null);
  const make = (tag, settings = {}, children = []) => {
    const element = Object.assign(document.createElement(tag), settings);
    element.append(...children);
    return element;
  };

  // Explanations: of what is pointed at or has the focus; Escape hides them.
  const tip = by("tip");
  const explain = (event) => {
    const of = event.target.closest?.("[data-tip]");
    tip.hidden = !of;
    if (!of) return;
    tip.textContent = of.dataset.tip;
    const at = of.getBoundingClientRect();
    const left = Math.max(8, Math.min(at.left, innerWidth - tip.offsetWidth - 8));
    const below = at.bottom + 6 + tip.offsetHeight < innerHeight;
    tip.style.left = `${left}px`;
    tip.style.top = `${below ? at.bottom + 6 : Math.max(4, at.top - tip.offsetHeight - 6)}px`;
  };
  for (const name of ["mouseover", "focusin"]) document.addEventListener(name, explain);
  for (const name of ["focusout", "scroll"]) document.addEventListener(name, () => (tip.hidden = true), true);
  document.addEventListener("keydown", (event) => event.key === "Escape" && (tip.hidden = true));

  // A table that is too wide fades where it goes on.
  for (const box of document.querySelectorAll(".scroll")) {
    const mark = () => {
      box.classList.toggle("more", box.scrollLeft + box.clientWidth < box.scrollWidth - 1);
      box.parentNode.style.setProperty("--bar", `${box.offsetWidth - box.clientWidth}px`);
    };
    box.addEventListener("scroll", mark);
    new ResizeObserver(mark).observe(box);
  }

  // The table of recordings.
  const list = by("list");
  const rows = list ? [...list.tBodies[0].rows] : [];
  const valueOf = (cell, numbers) =>
    numbers ? ("value" in cell.dataset ? Number(cell.dataset.value) : null) : cell.textContent.trim();
  const compare = (a, b) => (typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true }));
  const sortBy = (head) => {
    const ascending = head.getAttribute("aria-sort") !== "ascending";
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    const at = head.cellIndex;
    const numbers = at > 0 && !head.classList.contains("words");
    const keyed = rows.map((row) => [valueOf(row.cells[at], numbers), row]);
    // What has no value stands at the end in both orders.
    keyed.sort(([a], [b]) => (a === null) - (b === null) || (a === null ? 0 : (ascending ? 1 : -1) * compare(a, b)));
    rows.splice(0, rows.length, ...keyed.map(([, row]) => row));
    list.tBodies[0].append(...rows);
  };
  if (list) for (const head of list.tHead.rows[0].cells) head.querySelector("button").onclick = () => sortBy(head);

  const filters = document.querySelector(".filters");
  const filter = () => {
    const words = by("find").value.toLocaleLowerCase().split(/\s+/).filter(Boolean);
    const chosen = [...filters.querySelectorAll("select")].filter((select) => select.value);
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLocaleLowerCase();
      row.hidden = !(
        words.every((word) => text.includes(word)) &&
        chosen.every((select) => row.cells[select.dataset.column].textContent.trim() === select.value)
      );
      shown += !row.hidden;
    }
    const all = rows.length.toLocaleString("en");
    by("shown").textContent = shown < rows.length ? `${shown.toLocaleString("en")} of ${all} recordings` : `${all} recordings`;
  };
  if (filters) {
    filters.hidden = false;
    filters.addEventListener("input", filter);
    filters.addEventListener("submit", (event) => event.preventDefault());
    filter(); // a browser fills in again what stood here before
  }

  const described = new Map((readJson("described") ?? []).map((of) => [of.name, of]));
  if (!described.size) return;

  // Versions that the page holds run together, and a switch only changes their loudness: the position is kept to the
  // sample.
  class HeldVersions {
    constructor(context, buffers) {
      Object.assign(this, { context, buffers, sources: [], from: 0, begun: 0, chosen: 0 });
      this.duration = Math.max(...buffers.map((buffer) => buffer.duration));
      this.gains = buffers.map(() => new GainNode(context, { gain: 0 }));
      for (const gain of this.gains) gain.connect(context.destination);
      this.choose(0);
    }
    static async open(context, sounds) {
      const bytes = sounds.map((sound) => Uint8Array.from(atob(sound.flac), (character) => character.charCodeAt(0)));
      return new HeldVersions(context, await Promise.all(bytes.map((data) => context.decodeAudioData(data.buffer))));
    }
    get playing() { return this.sources.length > 0; }
    get time() {
      const run = this.playing ? Math.max(0, this.context.currentTime - this.begun) : 0;
      return Math.min(this.duration, this.from + run);
    }
    async play() {
      this.stop();
      await this.context.resume();
      this.begun = this.context.currentTime + 0.01;
      this.sources = this.buffers.map((buffer, at) => {
        const source = new AudioBufferSourceNode(this.context, { buffer });
        source.connect(this.gains[at]);
        source.start(this.begun, this.from);
        return source;
      });
    }
    stop() {
      for (const source of this.sources) source.stop();
      this.sources = [];
    }
    pause() {
      this.from = this.time;
      this.stop();
    }
    seek(time) {
      const { playing } = this;
      this.stop();
      this.from = Math.max(0, Math.min(time, this.duration));
      if (playing) this.play();
    }
    choose(chosen) {
      this.chosen = chosen;
      // A ramp of some milliseconds, because a jump would click.
      this.gains.forEach((gain, at) => gain.gain.setTargetAtTime(at === chosen ? 1 : 0, this.context.currentTime, 0.004));
    }
    close() {
      this.stop();
      for (const gain of this.gains) gain.disconnect();
    }
  }

  // Versions in files beside the page; a page that was opened as a file may play them, but not read them.
  class FileVersions {
    constructor(elements) { Object.assign(this, { elements, chosen: 0 }); }
    static open(tracks) {
      const opened = tracks.map(
        (track) =>
          new Promise((done, failed) => {
            const element = new Audio();
            element.preload = "auto";
            element.onloadedmetadata = () => done(element);
            element.onerror = () => failed(new Error(track.address));
            element.src = track.address;
          }),
      );
      return Promise.all(opened).then((elements) => new FileVersions(elements));
    }
    get element() { return this.elements[this.chosen]; }
    get duration() { return this.element.duration || 0; }
    get playing() { return !this.element.paused && !this.element.ended; }
    get time() { return this.element.currentTime; }
    play() { return this.element.play(); }
    pause() { this.element.pause(); }
    seek(time) { this.element.currentTime = Math.max(0, Math.min(time, this.duration)); }
    choose(chosen) {
      const { playing, time } = this;
      this.pause();
      this.chosen = chosen;
      this.element.currentTime = Math.min(time, this.duration);
      if (playing) this.play();
    }
    close() { this.pause(); }
  }

  const player = document.querySelector(".player");
  const position = by("position");
  let context = null; // made at the first sound: browsers want a key or a click before
  let current = null; // the recording in the player
  let versions = null; // its sound
  let version = "enhanced"; // label of what is heard, kept from recording to recording
  let lines = []; // the lines that show the position in the spectrograms
  let known = 0; // length in seconds, before the sound is opened
  let drawing = false; // whether the position is drawn with every frame of the screen

  const say = (text) => (by("said").textContent = text);
  const seconds = (time) => `${Math.floor(time / 60)}:${(time % 60).toFixed(1).padStart(4, "0")}`;
  const draw = () => {
    const time = versions?.time ?? 0;
    const duration = versions?.duration ?? known;
    position.max = duration || 1;
    position.value = time;
    position.setAttribute("aria-valuetext", `${time.toFixed(1)} of ${duration.toFixed(1)} seconds`);
    by("time").textContent = `${seconds(time)} / ${seconds(duration)}`;
    by("play").textContent = versions?.playing ? "Pause" : "Play";
    player.dataset.state = versions?.playing ? "playing" : "paused";
    for (const line of lines) line.style.left = `${duration ? (100 * time) / duration : 0}%`;
  };
  const run = () => {
    if (versions?.playing && versions.time >= versions.duration) {
      versions.pause();
      versions.seek(0);
    }
    draw();
    drawing = versions?.playing ?? false;
    if (drawing) requestAnimationFrame(run);
  };

  const choose = (at) => {
    if (!current || at < 0 || at >= current.tracks.length) return;
    version = current.tracks[at].label;
    by("versions").querySelectorAll("input")[at].checked = true;
    document.querySelectorAll(".track").forEach((track, other) => track.classList.toggle("chosen", other === at));
    versions?.choose(at);
    draw();
  };
  const fill = (place, facts) =>
    place.replaceChildren(
      ...Object.entries(facts).map(([name, value]) =>
        make("div", {}, [make("dt", { textContent: name }), make("dd", { textContent: value })]),
      ),
    );

  const show = (name) => {
    if (current?.name === name) return;
    versions?.close();
    versions = null;
    current = described.get(name);
    for (const row of rows) row.dataset.name === name ? row.setAttribute("aria-current", "true") : row.removeAttribute("aria-current");
    by("heard-title").textContent = current.title;
    by("heard-text").textContent = current.text;
    fill(by("heard-facts"), current.facts);
    by("versions").replaceChildren(
      by("versions").firstElementChild,
      ...current.tracks.map((track, at) => {
        const input = make("input", { type: "radio", name: "version", value: track.label, onchange: () => choose(at) });
        input.setAttribute("aria-keyshortcuts", String(at + 1));
        return make("label", {}, [input, make("kbd", { textContent: at + 1, ariaHidden: "true" }), track.label]);
      }),
    );
    const sounds = readJson(`sound-${name}`);
    lines = [];
    known = Math.max(0, ...(sounds ?? []).map((sound) => sound.seconds));
    by("tracks").replaceChildren(
      ...current.tracks.map((track, at) => {
        const facts = make("dl", { className: "facts" });
        fill(facts, track.facts);
        const parts = [make("h4", { textContent: track.label })];
        if (sounds?.[at].png) {
          const line = make("i");
          lines.push(line);
          const picture = make("img", { alt: `Spectrogram, ${track.label}`, src: `data:image/png;base64,${sounds[at].png}` });
          const spectrum = make("div", { className: "spectrum" }, [picture, line, make("span", { className: "khz", textContent: sounds[at].khz })]);
          spectrum.onclick = (event) => {
            const box = spectrum.getBoundingClientRect();
            choose(at);
            start((event.clientX - box.left) / box.width);
          };
          const { seconds: length } = sounds[at];
          const marks = [0, length / 2, length].map((time) => make("span", { textContent: `${time.toFixed(1)} s` }));
          parts.push(spectrum, make("div", { className: "axis" }, marks));
        }
        parts.push(facts);
        if (track.text) parts.push(make("p", { className: "transcript", textContent: track.text }));
        return make("div", { className: "track" }, parts);
      }),
    );
    choose(Math.max(0, current.tracks.findIndex((track) => track.label === version)));
    say("");
    draw();
  };

  const open = async () => {
    if (versions) return true;
    const wanted = current;
    const sounds = readJson(`sound-${wanted.name}`);
    let opened;
    try {
      context ??= new AudioContext();
      opened = sounds ? await HeldVersions.open(context, sounds) : await FileVersions.open(wanted.tracks);
    } catch (error) {
      if (wanted === current)
        say(sounds ? `This browser cannot decode the recording: ${error.message}`
                   : "The audio of this recording lies in files beside the page: open the page in its own folder.");
      return false;
    }
    if (wanted !== current || versions) {
      opened.close();
      return wanted === current;
    }
    versions = opened;
    choose(current.tracks.findIndex((track) => track.label === version));
    return true;
  };
  const start = async (share = null) => {
    if (!(await open())) return;
    if (share !== null) versions.seek(share * versions.duration);
    if (!versions.playing) await versions.play();
    say("");
    if (!drawing) run();
  };
  const toggle = async () => {
    if (versions?.playing) {
      versions.pause();
      draw();
    } else await start();
  };
  const step = (by_) => {
    const there = rows.filter((row) => !row.hidden && described.has(row.dataset.name));
    const at = there.findIndex((row) => row.dataset.name === current.name);
    const next = there[at < 0 ? 0 : at + by_];
    if (!next) return say(by_ > 0 ? "This is the last recording." : "This is the first recording.");
    const { playing } = versions ?? {};
    show(next.dataset.name);
    say(current.title);
    next.scrollIntoView({ block: "nearest" });
    if (playing) start();
  };
  const move = async (by_) => {
    if (!(await open())) return;
    versions.seek(versions.time + by_);
    draw();
  };

  by("play").onclick = toggle;
  by("before").onclick = () => step(-1);
  by("next").onclick = () => step(1);
  position.oninput = async () => {
    const share = position.value / position.max;
    if (!(await open())) return;
    versions.seek(share * versions.duration);
    draw();
  };
  document.addEventListener("keydown", (event) => {
    const { target, key } = event;
    const typing = target.matches("select, textarea, input:not([type=radio], [type=range])");
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    const arrow = { ArrowLeft: -1, ArrowRight: 1 }[key];
    if (/^[1-9]$/.test(key) && current.tracks[key - 1]) {
      choose(key - 1);
      say(current.tracks[key - 1].label);
    } else if (key === " " && !target.matches("button")) toggle();
    else if (arrow && !target.matches(".scroll, input[type=radio]")) move(arrow * (event.shiftKey ? 0.1 : 1));
    else if (/^[nN]$/.test(key)) step(1);
    else if (/^[pP]$/.test(key)) step(-1);
    else return;
    event.preventDefault();
  });
  const follow = () => {
    const name = decodeURIComponent(location.hash.slice(1));
    if (described.has(name)) show(name);
    return described.has(name);
  };
  list.addEventListener("click", (event) => {
    const name = event.target.closest("a")?.parentNode.parentNode.dataset.name;
    if (!name || event.ctrlKey || event.metaKey) return;
    show(name);
    start(0);
  });
  addEventListener("hashchange", follow);
  player.hidden = by("heard").hidden = false;
  if (!follow()) show(described.keys().next().value);
  draw();
})();
