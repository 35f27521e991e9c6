// A conversation as the model's chat template writes it, from the literal pieces that the bundle hands over.
import { EdgekitError } from "./errors.js";

/** @typedef {import("./types.js").PromptFile} PromptFile */
/** @typedef {import("./types.js").Message} Message */
/** @typedef {import("./types.js").Part} Part */

/**
 * One user turn: images first, then the text.
 * @param {string} text
 * @param {number} images
 * @returns {Message}
 */
export function question(text, images) {
  const parts = Array.from({ length: images }, () => /** @type {Part} */ ({ type: "image" }));
  return { role: "user", content: [...parts, { type: "text", text }] };
}

/** @param {PromptFile} file */
export function checkPrompt(file) {
  if (file.unsupported) {
    throw new EdgekitError("This model's chat template is not supported in an app.", {
      why: file.unsupported,
      code: "unsupported",
    });
  }
  if (file.format !== 1) {
    throw new EdgekitError(`app/prompt.json is of format ${file.format}, and this library reads 1.`, {
      fix: "Write the app again with the edgekit that exported the bundle.",
      code: "unsupported",
    });
  }
}

/**
 * The prompt for the assistant's next turn.
 * @param {PromptFile} file
 * @param {Message[]} messages [system?] user (assistant user)*
 */
export function render(file, messages) {
  const [system, turns] = messages[0]?.role === "system" ? [messages[0], messages.slice(1)] : [null, messages];
  turns.forEach((message, number) => {
    if (message.role !== (number % 2 ? "assistant" : "user") || !message.content.length) refuse("Turns must alternate");
  });
  if (turns.length % 2 !== 1) refuse("The last turn must be the user's");
  let text = begin(file, system, kind(turns[0]));
  turns.forEach((message, number) => {
    if (message.role === "assistant") text += reply(file, message);
    else text += (number ? file.user.before[kind(message)] : "") + user(file, message) + file.user.after;
  });
  return text + file.generation;
}

/** @param {PromptFile} file @param {Message | null} system @param {"text" | "image"} first */
function begin(file, system, first) {
  if (!system) return file.begin[first];
  if (!file.system) refuse("This model takes no system text", file.refused.system);
  return file.system.before + trimmed(file, plain(system), file.system.trim) + file.system.after[first];
}

/** @param {PromptFile} file @param {Message} message */
function reply(file, message) {
  if (!file.assistant) refuse("This model takes one turn only", file.refused.assistant);
  const text = dropped(file, plain(message), file.assistant.drop ?? null);
  return file.assistant.before + trimmed(file, text, file.assistant.trim) + file.assistant.after;
}

/**
 * What the template keeps of an answer: not what was thought before it.
 * @param {PromptFile} file
 * @param {string} text
 * @param {{to: string, trim: "none" | "newlines" | "both"} | null} drop
 */
function dropped(file, text, drop) {
  const at = drop ? text.lastIndexOf(drop.to) : -1;
  if (!drop || at < 0) return text;
  const rest = text.slice(at + drop.to.length);
  if (drop.trim === "newlines") return rest.replace(/^\n+/, "");
  return trimmed(file, rest, drop.trim === "both");
}

/** @param {PromptFile} file @param {Message} message */
function user(file, message) {
  const parts = file.image.first
    ? [...message.content.filter((part) => part.type === "image"), ...message.content.filter((part) => part.type !== "image")]
    : message.content;
  const { before, after, trim } = file.user.text;
  return parts
    .map((part) => (part.type === "image" ? file.image.piece : before + trimmed(file, part.text, trim) + after))
    .join("");
}

/** @param {Message} message @returns {"text" | "image"} */
const kind = (message) => (message.content[0].type === "image" ? "image" : "text");

/** The one text of a message, whose content is that text or a list with it. @param {Message} message */
const plain = ({ content }) =>
  typeof content === "string" ? content : content.map((part) => (part.type === "text" ? part.text : "")).join("");

/** @param {PromptFile} file @param {string} text @param {boolean} trims */
function trimmed(file, text, trims) {
  if (!trims) return text;
  const characters = Array.from(text);
  let from = 0;
  let to = characters.length;
  while (from < to && file.blanks.includes(characters[from])) from++;
  while (to > from && file.blanks.includes(characters[to - 1])) to--;
  return characters.slice(from, to).join("");
}

/**
 * Each picture's place in a rendered prompt filled with what the model was trained on.
 * @param {string} text
 * @param {string} place
 * @param {string[]} fillings
 */
export function fillPlaces(text, place, fillings) {
  const parts = text.split(place);
  if (parts.length - 1 !== fillings.length) {
    refuse(
      `The prompt does not have one image part for each of its ${fillings.length} images`,
      `${JSON.stringify(place)} stands there ${parts.length - 1} times; a literal one in a question counts too.`,
    );
  }
  return parts[0] + fillings.map((filling, number) => filling + parts[number + 1]).join("");
}

/**
 * @param {PromptFile} file
 * @param {import("./tokenizer.js").Tokenizer} tokenizer
 * @param {string} text Places filled.
 */
export function promptIds(file, tokenizer, text) {
  const { before, after, unless_begins, limit } = file.tokens;
  const adds = unless_begins === null || !text.startsWith(unless_begins);
  const ids = adds ? [...before, ...tokenizer.encode(text), ...after] : tokenizer.encode(text);
  if (limit && ids.length > limit.tokens) {
    refuse(`The prompt has ${ids.length} tokens, and the model's tokenizer cuts it to ${limit.tokens}`);
  }
  return ids;
}

/**
 * @param {string} what
 * @param {string} [why]
 * @returns {never}
 */
function refuse(what, why) {
  throw new EdgekitError(`${what}.`, { why, code: "prompt" });
}
