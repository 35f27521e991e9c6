// What an app sees of the library (index.js), and the files of a bundle as it reads them.

/** app/model.json */
export interface ModelFile {
  format: number;
  name: string;
  target: string;
  family: string;
  precision: { common: string; native: string };
  files: FileEntry[];
  bytes: number;
  components: Record<string, Component>;
  buckets: Record<string, { component: string; grid: number[] | null; tokens: number }>;
  preprocessing: Preprocessing;
  text: { image_token_id: number; eos_token_ids: number[]; [more: string]: unknown };
  cache: { layers: number; kv_heads: number; head_dim: number; in_place?: boolean; rewinds?: boolean };
  vocab_size: number;
  position_axes: number;
  deepstack: number;
  generation: Record<string, unknown> | null;
  tokens: number;
  /** Tokens that prompt and answer may have together, where the model says so. */
  context?: number | null;
  student_sha256: string;
}

export interface FileEntry {
  path: string;
  /** Relative to model.json's own address, or absolute. */
  url: string;
  sha256: string;
  bytes: number;
  for: "model" | "text" | "golden";
}

export interface Component {
  file: string;
  inputs: TensorSpec[];
  outputs: TensorSpec[];
  precision?: string | null;
}

export interface TensorSpec {
  name: string;
  dtype: string;
  shape: (number | string)[];
}

/** Image parameters: those that all families have, and each family's own. */
export interface Preprocessing {
  resample: number;
  resize_order?: "columns_first" | "narrow_rows_first" | "tall_rows_first";
  rescale_factor: number;
  mean: number[];
  std: number[];
  sizes?: number[][] | null;
  tile?: number | number[];
  [own: string]: any;
}

/** app/prompt.json; handed over with every bundle. */
export interface PromptFile {
  format: number;
  unsupported?: string;
  begin: ByFirst;
  system: { before: string; after: ByFirst; trim: boolean } | null;
  user: { before: ByFirst; text: { before: string; after: string; trim: boolean }; after: string };
  image: { piece: string; first: boolean };
  assistant: {
    before: string;
    after: string;
    trim: boolean;
    /** Of a text that holds `to`, only what follows its last one is kept. */
    drop?: { to: string; trim: "none" | "newlines" | "both" } | null;
  } | null;
  generation: string;
  refused: { system?: string; assistant?: string };
  blanks: string;
  tokens: {
    before: number[];
    after: number[];
    unless_begins: string | null;
    limit: { tokens: number; side: string } | null;
  };
}

/** By what a turn begins with. */
export interface ByFirst {
  text: string;
  image: string;
}

export type Part = { type: "image" } | { type: "text"; text: string };
export interface Message {
  role: "system" | "user" | "assistant";
  content: Part[];
}

/** Red, green and blue of each pixel, row by row. */
export interface RawPicture {
  width: number;
  height: number;
  data: Uint8Array;
}

/** Whatever holds a picture; files are turned upright by their EXIF tag, and what is transparent is laid over white. */
export type ImageSource = Blob | ImageBitmap | ImageData | HTMLImageElement | HTMLCanvasElement | HTMLVideoElement | RawPicture;

export interface Timings {
  preprocess_ms: number;
  image_encode_ms: number;
  prefill_ms: number;
  first_token_ms: number;
  /** Each later token. */
  itl_ms: number[];
  /** Tokens that were prefilled. */
  prompt_tokens: number;
  /** Tokens of a conversation that were in the cache before. */
  cached_tokens: number;
}

export type Finish = "eos" | "stop" | "length";
export interface Answer {
  text: string;
  /** The end token included, when it came. */
  tokenIds: number[];
  finish: Finish;
  timings: Timings;
}

export type Event =
  | { type: "phase"; phase: "preprocess" | "encode" | "prefill" | "decode" }
  | { type: "token"; id: number; ms: number }
  /** A piece of text that is certain; the pieces joined are the answer's text, but for white space at both ends. */
  | { type: "text"; text: string }
  | ({ type: "done" } & Answer);

export interface AnswerOptions {
  maxNewTokens?: number;
  /** 0 is greedy. */
  temperature?: number;
  topK?: number;
  topP?: number;
  /** In the place of the model's own. */
  repetitionPenalty?: number;
  seed?: number;
  /** Texts that end the answer and are no part of it. */
  stop?: string[];
  /** model: with the model's own generation settings, as transformers does it; greedy: without them. */
  generation?: "model" | "greedy";
  system?: string;
  signal?: AbortSignal;
}

export interface Progress {
  phase: "download" | "check" | "load" | "self-test";
  /** Bytes, or tests. */
  done: number;
  total: number;
  file?: string;
}

export interface OpenOptions {
  /** auto: the GPU where there is one and the self-test passes on it, else wasm. */
  runtime?: "auto" | "wasm" | "webgpu";
  /** Of wasm; by default up to 4 where the page is cross-origin isolated, else 1. */
  threads?: number;
  /** Folder of onnxruntime-web's files; ../ort/ beside the library by default. */
  ort?: string | URL;
  /** SHA-256 and bytes of app/model.json, which names those of all other files; with both it is kept as they are. */
  sha256?: string;
  bytes?: number;
  /** Tokens that prompt and answer may have together, where app/model.json does not say. */
  context?: number | null;
  onProgress?: (progress: Progress) => void;
  signal?: AbortSignal;
  /** Milliseconds that a step may take before the runtime is given up. */
  timeouts?: { load?: number; step?: number };
}

export interface RuntimeInfo {
  name: "wasm" | "webgpu";
  threads: number;
  isolated: boolean;
  /** Why it is this one. */
  why: string;
  /** Where the bundle's files lie: opfs, or memory where the page may not keep any. */
  storage: "opfs" | "memory";
  /** From nothing to a model that answers, downloads included. */
  load_ms: number;
  /** Of that, waiting for the network. */
  download_ms: number;
}

export interface SelfTest {
  passed: boolean;
  checks: { name: string; count: number; passed: boolean; failures: string[] }[];
  ms: number;
}

export interface BenchRun extends Timings {
  token_ids: number[];
  id: string;
}

export interface Chat {
  say(text: string, images?: ImageSource | ImageSource[], options?: { signal?: AbortSignal }): AsyncGenerator<Event, void>;
}

export interface VisionModel {
  readonly model: ModelFile;
  readonly runtime: RuntimeInfo;
  /** question: a text behind the images, or a whole conversation that ends with the user's turn. */
  answer(question: string | Message[], images?: ImageSource | ImageSource[] | null, options?: AnswerOptions): AsyncGenerator<Event, void>;
  /** A conversation whose cache is kept from turn to turn; another answer between its turns makes it start anew. */
  chat(options?: AnswerOptions): Chat;
  selfTest(options?: { onProgress?: (progress: Progress) => void; signal?: AbortSignal }): Promise<SelfTest>;
  /** Answers of golden pictures, timed, for `edgekit bench --import`. */
  bench(options?: { runs?: number; signal?: AbortSignal; onProgress?: (progress: Progress) => void }): Promise<BenchRun[]>;
  /** Of the page and its workers, where the browser tells; that may take seconds. */
  memory(): Promise<{ bytes: number; how: string } | null>;
  close(): void;
}
