// A bundle's files: downloaded with progress, gone on with where it stopped, kept under their hash, checked at each use.
//
// They lie in the origin's private file system, where a page has one (it needs https or localhost), else in memory.
// For workers: only there files can be written in place, so that what a killed page had stays.
import { EdgekitError, checkAborted } from "./errors.js";
import { Sha256, sha256 } from "./sha256.js";

/** @typedef {import("./types.js").FileEntry} FileEntry */
/** @typedef {(done: number) => void} OnBytes Told how many bytes of a file are there. */

const FOLDER = "edgekit";
const TRIES = 4;
const SILENT_MS = 30000; // a download that says nothing for so long is taken for dead

export class Store {
  /** @param {FileSystemDirectoryHandle | null} folder */
  constructor(folder) {
    this.folder = folder;
    /** Where there is no folder. @type {Map<string, Uint8Array>} */
    this.held = new Map();
    this.waited = 0; // milliseconds in which at least one download was under way
    this.under = 0;
    this.since = 0;
  }

  /** Adds to `waited`. @template T @param {Promise<T>} download @returns {Promise<T>} */
  async #timed(download) {
    if (!this.under++) this.since = performance.now();
    try {
      return await download;
    } finally {
      if (!--this.under) this.waited += performance.now() - this.since;
    }
  }

  static async open() {
    try {
      const root = await navigator.storage.getDirectory();
      const folder = await root.getDirectoryHandle(FOLDER, { create: true });
      if (!("createSyncAccessHandle" in FileSystemFileHandle.prototype)) return new Store(null);
      return new Store(folder);
    } catch {
      return new Store(null); // no secure context, or a private window
    }
  }

  get kind() {
    return this.folder ? /** @type {const} */ ("opfs") : /** @type {const} */ ("memory");
  }

  /**
   * Refuse what does not fit before a byte of it is downloaded.
   * @param {FileEntry[]} files
   */
  async checkRoom(files) {
    if (!this.folder) return;
    let missing = 0;
    for (const file of files) missing += file.bytes - Math.min(file.bytes, await this.#size(file.sha256));
    const { quota = Infinity, usage = 0 } = (await navigator.storage.estimate?.()) ?? {};
    if (missing > quota - usage) {
      throw new EdgekitError(`No space for the model: ${megabytes(missing)} are missing.`, {
        why: `The browser grants this page ${megabytes(quota - usage)} more.`,
        fix: "Free some space on the device, and open the page again.",
        code: "space",
      });
    }
  }

  /** @param {string} hash */
  async #size(hash) {
    try {
      return (await (await this.#handle(hash, false)).getFile()).size;
    } catch {
      return 0;
    }
  }

  /** @param {string} hash @param {boolean} create */
  #handle(hash, create) {
    return /** @type {FileSystemDirectoryHandle} */ (this.folder).getFileHandle(hash, { create });
  }

  /**
   * The bytes of a file, checked; downloaded where they are not there, or not those that they should be.
   * @param {FileEntry} file
   * @param {string} url
   * @param {{onBytes?: OnBytes, signal?: AbortSignal}} [options]
   * @returns {Promise<Uint8Array>}
   */
  async read(file, url, { onBytes, signal } = {}) {
    if (this.folder && (await this.#size(file.sha256)) === file.bytes) {
      const bytes = await this.#bytes(file);
      if (bytes) {
        onBytes?.(file.bytes);
        return bytes;
      }
    }
    if (!this.folder) return this.#inMemory(file, url, { onBytes, signal });
    await locked(file.sha256, () => this.#download(file, url, { onBytes, signal }));
    const bytes = await this.#bytes(file);
    if (!bytes) throw damaged(file, url);
    return bytes;
  }

  /** A whole file that is what its name says; another is removed. @param {FileEntry} file */
  async #bytes(file) {
    const found = await (await this.#handle(file.sha256, false)).getFile();
    const bytes = new Uint8Array(await found.arrayBuffer());
    if (bytes.length === file.bytes && (await sha256(bytes)) === file.sha256) return bytes;
    await /** @type {FileSystemDirectoryHandle} */ (this.folder).removeEntry(file.sha256);
    return null;
  }

  /** @param {FileEntry} file @param {string} url @param {{onBytes?: OnBytes, signal?: AbortSignal}} options */
  async #download(file, url, { onBytes, signal }) {
    const handle = await inPlace(await this.#handle(file.sha256, true));
    try {
      if (handle.getSize() > file.bytes) handle.truncate(0);
      await this.#timed(fetched(file, url, signal, {
        size: () => handle.getSize(),
        restart: () => handle.truncate(0),
        write(bytes) {
          const at = handle.getSize();
          if (handle.write(bytes, { at }) !== bytes.length) throw noSpace(file);
          handle.flush(); // what was flushed survives the page's end
          onBytes?.(at + bytes.length);
        },
      }));
    } catch (error) {
      throw /** @type {any} */ (error)?.name === "QuotaExceededError" ? noSpace(file) : error;
    } finally {
      handle.close();
    }
  }

  /** @param {FileEntry} file @param {string} url @param {{onBytes?: OnBytes, signal?: AbortSignal}} options */
  async #inMemory(file, url, { onBytes, signal }) {
    const before = this.held.get(file.sha256);
    if (before) return before;
    const out = new Uint8Array(file.bytes);
    const hash = { own: new Sha256() };
    let at = 0;
    await this.#timed(fetched(file, url, signal, {
      size: () => at,
      restart() {
        at = 0;
        hash.own = new Sha256();
      },
      write(bytes) {
        out.set(bytes, at);
        hash.own.update(bytes);
        at += bytes.length; // no part of the call: nobody may be listening
        onBytes?.(at);
      },
    }));
    if (hash.own.digest() !== file.sha256) throw damaged(file, url);
    if (file.bytes < 1 << 20) this.held.set(file.sha256, out); // large ones are read once, by the runtime
    return out;
  }

  /** A short list that is kept under a name; empty where there is none. @param {string} name @returns {Promise<string[]>} */
  async note(name) {
    try {
      return JSON.parse(await (await (await this.#handle(name, false)).getFile()).text());
    } catch {
      return [];
    }
  }

  /** @param {string} name @param {string[]} value */
  async setNote(name, value) {
    if (!this.folder) return;
    const handle = await inPlace(await this.#handle(name, true));
    handle.truncate(0);
    handle.write(new TextEncoder().encode(JSON.stringify(value)));
    handle.close();
  }

  async bytes() {
    let sum = 0;
    for await (const one of this.folder?.values() ?? []) if (one.kind === "file") sum += (await one.getFile()).size;
    return sum;
  }

  async clear() {
    this.held.clear();
    const names = [];
    for await (const one of this.folder?.values() ?? []) names.push(one.name);
    for (const name of names) await this.folder?.removeEntry(name);
  }
}

/**
 * @typedef {object} Sink
 * @property {() => number} size What is there already.
 * @property {() => void} restart Forget it.
 * @property {(bytes: Uint8Array) => void} write
 */

/**
 * Fill a sink with a file's bytes, going on where it stopped, also after a broken line.
 * @param {FileEntry} file
 * @param {string} url
 * @param {AbortSignal | undefined} signal
 * @param {Sink} sink
 */
async function fetched(file, url, signal, sink) {
  for (let tried = 1; sink.size() < file.bytes; tried++) {
    const before = sink.size();
    try {
      await oneFetch(file, url, signal, sink);
    } catch (error) {
      checkAborted(signal);
      if (error instanceof EdgekitError) throw error;
      if (sink.size() > before) tried = 1; // it got on
      if (tried >= TRIES) {
        throw new EdgekitError(`Cannot download ${file.path}.`, {
          why: `${error}; ${megabytes(sink.size())} of ${megabytes(file.bytes)} are there. Address: ${url}`,
          fix: "Check the connection; the download goes on where it stopped.",
          code: "network",
        });
      }
      await new Promise((resolve) => setTimeout(resolve, 250 * 2 ** tried));
    }
  }
}

/** @param {FileEntry} file @param {string} url @param {AbortSignal | undefined} signal @param {Sink} sink */
async function oneFetch(file, url, signal, sink) {
  const start = sink.size();
  const own = new AbortController();
  const stop = () => own.abort();
  signal?.addEventListener("abort", stop);
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let silence;
  const heard = () => {
    clearTimeout(silence);
    silence = setTimeout(stop, SILENT_MS);
  };
  try {
    heard();
    /** @type {RequestInit} */
    const request = { signal: own.signal, cache: "no-store", headers: start ? { Range: `bytes=${start}-` } : {} };
    const answer = await fetch(url, request);
    if (answer.status >= 400 && answer.status < 500) {
      throw new EdgekitError(`Cannot download ${file.path}: the server says ${answer.status}.`, { why: url, code: "network" });
    }
    if (!answer.ok || !answer.body) throw new Error(`the server says ${answer.status}`);
    const goesOn = answer.status === 206 && answer.headers.get("Content-Range")?.startsWith(`bytes ${start}-`);
    if (start && !goesOn) sink.restart(); // a server that knows no ranges sends the whole
    const reader = answer.body.getReader();
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      heard();
      checkAborted(signal);
      if (sink.size() + part.value.length > file.bytes) {
        sink.restart();
        throw damaged(file, url);
      }
      sink.write(part.value);
    }
    if (sink.size() < file.bytes) throw new Error("the line broke");
  } finally {
    clearTimeout(silence);
    signal?.removeEventListener("abort", stop);
    own.abort();
  }
}

/**
 * A file to be written in place, which TypeScript's own types know in workers alone.
 * @param {FileSystemFileHandle} handle
 * @returns {Promise<{getSize(): number, truncate(size: number): void, write(bytes: Uint8Array, options?: {at: number}): number,
 *   flush(): void, close(): void}>}
 */
const inPlace = (handle) => /** @type {any} */ (handle).createSyncAccessHandle();

/** One page at a time writes a file. @template T @param {string} name @param {() => Promise<T>} work @returns {Promise<T>} */
const locked = (name, work) => (navigator.locks ? /** @type {any} */ (navigator.locks.request(`edgekit ${name}`, work)) : work());

/** @param {FileEntry} file @param {string} url */
const damaged = (file, url) =>
  new EdgekitError(`${file.path} is not the file that was exported.`, {
    why: `Its SHA-256 or length differs from app/model.json's. Address: ${url}`,
    fix: "Put the bundle's own file there, and open the page again.",
    code: "damaged",
  });

/** @param {FileEntry} file */
const noSpace = (file) =>
  new EdgekitError(`No space left while writing ${file.path}.`, { fix: "Free some space on the device.", code: "space" });

/** @param {number} bytes */
const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;
