// The loop over a session: one answer, and a chat that keeps its cache. What Python's runtimes/generate.py does.
import { EdgekitError, checkAborted } from "./errors.js";
import { familyOf } from "./families/index.js";
import { steps } from "./generation.js";
import { checkPrompt, fillPlaces, promptIds, question, render } from "./prompt.js";
import { chooser, greedy } from "./sampling.js";
import { TextStream } from "./stream.js";
import { strip, stripStart } from "./unicode.js";

/** @typedef {import("./types.js").AnswerOptions} AnswerOptions */
/** @typedef {import("./types.js").Event} Event */
/** @typedef {import("./types.js").Message} Message */
/** @typedef {import("./resize.js").Picture} Picture */
/** @typedef {import("./pixels.js").Pixels} Pixels */

/**
 * A prompt after preprocessing.
 * @typedef {object} Prepared
 * @property {number[]} ids
 * @property {number[][]} positions By axis.
 * @property {(Pixels | null)[]} pixels Of each picture; null where its grid was known, and nobody asked for more.
 * @property {string} prompt Rendered.
 * @property {string} expanded Its places filled.
 */
/** @typedef {{ids: number[], prompt: number, images: number}} Held What is in a cache: tokens, those of the prompt, pictures. */

/** @type {Held} */
const NOTHING = { ids: [], prompt: 0, images: 0 };

export class Engine {
  /**
   * @param {import("./types.js").ModelFile} model
   * @param {import("./types.js").PromptFile} prompt
   * @param {import("./tokenizer.js").Tokenizer} tokenizer
   * @param {import("./session.js").Session} session
   * @param {() => Promise<void>} [breathe] Lets messages in between two tokens.
   */
  constructor(model, prompt, tokenizer, session, breathe = async () => {}) {
    checkPrompt(prompt);
    this.model = model;
    this.prompt = prompt;
    this.tokenizer = tokenizer;
    this.session = session;
    this.breathe = breathe;
    this.family = familyOf(model.family);
    this.ends = new Set(model.text.eos_token_ids);
    /** Grids of pictures that were prepared before. @type {WeakMap<Picture, number[]>} */
    this.grids = new WeakMap();
    /** Whose tokens the cache holds. @type {object | null} */
    this.owner = null;
  }

  /** Text of generated tokens, without the space that opens an answer. @param {number[]} ids */
  decode(ids) {
    return stripStart(this.tokenizer.decode(ids));
  }

  /**
   * @param {Message[]} messages
   * @param {Picture[]} pictures In the order of the image parts.
   * @param {number} [known] So many first pictures may go without pixels.
   * @returns {Prepared}
   */
  prepare(messages, pictures, known = 0) {
    const params = this.model.preprocessing;
    const pixels = pictures.map((picture, number) =>
      number < known && this.grids.has(picture) ? null : this.family.preprocess(picture, params),
    );
    const grids = pictures.map((picture, number) => pixels[number]?.grid ?? this.grids.get(picture) ?? []);
    pictures.forEach((picture, number) => this.grids.set(picture, grids[number]));
    const prompt = render(this.prompt, messages);
    const expanded = fillPlaces(prompt, this.family.place, grids.map((grid) => this.family.filling(grid, params)));
    const ids = promptIds(this.prompt, this.tokenizer, expanded);
    return { ids, positions: this.family.positions(ids, grids, params), pixels, prompt, expanded };
  }

  /**
   * Answer one prompt from an empty cache.
   * @param {Message[]} messages
   * @param {Picture[]} pictures
   * @param {AnswerOptions} options
   * @returns {AsyncGenerator<Event, void>}
   */
  async *answer(messages, pictures, options = {}) {
    this.owner = null;
    yield* this.say(messages, pictures, options, NOTHING, () => {});
  }

  /**
   * @param {Message[]} messages The whole conversation.
   * @param {Picture[]} pictures
   * @param {AnswerOptions} options
   * @param {Held} held What the cache holds.
   * @param {(held: Held, answer: import("./types.js").Answer) => void} keep Told what it holds at the end.
   * @returns {AsyncGenerator<Event, void>}
   */
  async *say(messages, pictures, options, held, keep) {
    const { maxNewTokens = 64, signal } = options;
    if (!(Number.isInteger(maxNewTokens) && maxNewTokens > 0)) {
      throw new EdgekitError(`maxNewTokens is ${maxNewTokens}; it is a whole number above 0.`, { code: "argument" });
    }
    const clock = new Lap();
    yield { type: "phase", phase: "preprocess" };
    await this.breathe();
    checkAborted(signal);
    let prepared = this.prepare(messages, pictures, held.images);
    this.#checkRoom(prepared.ids.length, maxNewTokens);
    const kept = this.#keep(prepared, held);
    if (!kept && held.images) prepared = this.prepare(messages, pictures);
    const fresh = /** @type {Pixels[]} */ (prepared.pixels.slice(kept ? held.images : 0));
    const timings = { preprocess_ms: clock.lap(), image_encode_ms: 0, prefill_ms: 0, first_token_ms: 0 };
    /** @type {number[]} */
    const itl_ms = [];
    let features = null;
    if (fresh.length) {
      yield { type: "phase", phase: "encode" };
      await this.breathe();
      checkAborted(signal);
      clock.lap();
      features = await this.session.encode(fresh, this.family);
      timings.image_encode_ms = clock.lap();
    }
    yield { type: "phase", phase: "prefill" };
    await this.breathe();
    checkAborted(signal);
    clock.lap();
    let logits = await this.session.prefill(prepared.ids.slice(kept), prepared.positions.map((axis) => axis.slice(kept)), features);
    timings.prefill_ms = clock.lap();
    yield { type: "phase", phase: "decode" };
    const choose = this.#chooser(prepared.ids, options, maxNewTokens);
    const settings = options.generation === "greedy" ? {} : this.model.generation ?? {};
    const stops = [...(options.stop ?? []), ...[settings.stop_strings ?? []].flat()].map(String);
    const stream = new TextStream((ids) => this.decode(ids), stops);
    /** @type {number[]} */
    const tokens = [];
    for (clock.lap(); ; ) {
      const token = choose(logits, tokens);
      const ms = clock.lap();
      tokens.push(token);
      if (tokens.length === 1) timings.first_token_ms = ms;
      else itl_ms.push(ms);
      const finish = this.#push(stream, token, tokens.length, maxNewTokens);
      yield { type: "token", id: token, ms };
      if (finish.text) yield { type: "text", text: finish.text };
      if (finish.why) {
        const answer = {
          text: strip(stream.text), tokenIds: tokens, finish: finish.why,
          timings: { ...timings, itl_ms, prompt_tokens: prepared.ids.length - kept, cached_tokens: kept },
        };
        // The last token was chosen, and never fed.
        keep({ ids: [...prepared.ids, ...tokens.slice(0, -1)], prompt: prepared.ids.length, images: pictures.length }, answer);
        yield { type: "done", ...answer };
        return;
      }
      await this.breathe();
      checkAborted(signal);
      clock.lap(); // showing text is no part of a token's time
      logits = await this.session.step(token);
    }
  }

  /**
   * @param {TextStream} stream
   * @param {number} token
   * @param {number} count
   * @param {number} limit
   */
  #push(stream, token, count, limit) {
    let text = stream.push(token);
    /** @type {import("./types.js").Finish | null} */
    const why = this.ends.has(token) ? "eos" : stream.stopped ? "stop" : count === limit ? "length" : null;
    if (why) text += stream.finish();
    return { text, why };
  }

  /** @param {number} tokens @param {number} more */
  #checkRoom(tokens, more) {
    const context = this.model.context;
    if (context && tokens + more > context) {
      throw new EdgekitError(`The prompt has ${tokens} tokens, and with an answer of ${more} more than the model's ${context}.`, {
        fix: "Ask a shorter question, take fewer or smaller pictures, start a new chat, or allow a shorter answer.",
        code: "context",
      });
    }
  }

  /**
   * Rewind the cache to what it shares with a prompt; how many tokens that are.
   * @param {Prepared} prepared
   * @param {Held} held
   */
  #keep(prepared, held) {
    const most = Math.min(held.ids.length, prepared.ids.length - 1); // one is fed at least, or there would be no logits
    let shared = 0;
    while (shared < most && held.ids[shared] === prepared.ids[shared]) shared++;
    // Pictures are kept whole and all, or the conversation is prefilled anew.
    const image = this.model.text.image_token_id;
    if (held.images && (held.ids.slice(shared, held.prompt).includes(image) || prepared.pixels.length < held.images)) shared = 0;
    if (shared && this.session.rewind(shared) === shared) return shared;
    this.session.reset();
    return 0;
  }

  /**
   * @param {readonly number[]} prompt
   * @param {AnswerOptions} options
   * @param {number} limit
   * @returns {(logits: Float32Array, tokens: readonly number[]) => number}
   */
  #chooser(prompt, options, limit) {
    const { temperature = 0, topK = 0, topP = 1, seed = Math.trunc(Math.random() * 2 ** 32), repetitionPenalty } = options;
    const given = { ...(options.generation === "greedy" ? {} : this.model.generation ?? {}) };
    if (repetitionPenalty !== undefined) {
      if (!(Number.isFinite(repetitionPenalty) && repetitionPenalty > 0)) {
        throw new EdgekitError(`A repetition penalty of ${repetitionPenalty} has no meaning.`, {
          fix: "Give one above 0: 1 changes nothing, 1.1 discourages repeating.",
          code: "argument",
        });
      }
      given.repetition_penalty = repetitionPenalty;
    }
    const rules = steps(given, prompt, limit, [...this.ends]);
    const choose = chooser({ temperature, topK, topP, seed }, this.model.tokens);
    return (logits, tokens) => {
      const best = greedy(logits); // refuses those that are no numbers, as the model gave them
      if (!rules.length) return temperature === 0 ? best : choose(logits);
      const ids = [...prompt, ...tokens];
      for (const rule of rules) rule(logits, ids);
      return choose(logits);
    };
  }
}

/** A conversation of several turns; the cache is kept from turn to turn, and only what is new is prefilled. */
export class Conversation {
  /** @param {Engine} engine @param {AnswerOptions} options */
  constructor(engine, options = {}) {
    this.engine = engine;
    this.options = options;
    /** @type {Message[]} */
    this.messages = options.system ? [{ role: "system", content: [{ type: "text", text: options.system }] }] : [];
    /** @type {Picture[]} */
    this.pictures = [];
    this.held = NOTHING;
  }

  /**
   * The answer to the user's next turn; where it breaks off, the conversation is as it was before.
   * @param {string} text
   * @param {Picture[]} pictures New ones; they stand before the text.
   * @param {AbortSignal} [signal]
   * @returns {AsyncGenerator<Event, void>}
   */
  async *say(text, pictures = [], signal) {
    const messages = [...this.messages, question(text, pictures.length)];
    const all = [...this.pictures, ...pictures];
    const held = this.engine.owner === this ? this.held : NOTHING;
    this.held = NOTHING; // a turn that breaks off leaves a cache that cannot be trusted
    this.engine.owner = this;
    yield* this.engine.say(messages, all, { ...this.options, signal }, held, (now, answer) => {
      this.held = now;
      this.messages = [...messages, { role: "assistant", content: [{ type: "text", text: answer.text }] }];
      this.pictures = all;
    });
  }
}

class Lap {
  constructor() {
    this.last = performance.now();
  }

  /** Milliseconds since the lap before. */
  lap() {
    const now = performance.now();
    const spent = now - this.last;
    this.last = now;
    return spent;
  }
}
