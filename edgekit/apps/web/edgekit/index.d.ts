import type { OpenOptions, VisionModel as Model } from "./types.js";

export * from "./types.js";
export { EdgekitError } from "./errors.js";
export type VisionModel = Model;
export declare const VisionModel: {
  /**
   * Download what is missing of a bundle, check every file, and load it in a worker.
   * @param url Of the bundle's app/model.json.
   */
  open(url: string | URL, options?: OpenOptions): Promise<Model>;
};
/** Files of all bundles that this page has kept. */
export declare function storedBytes(): Promise<number>;
/** Remove them. */
export declare function clearStore(): Promise<void>;
