// Written by `edgekit app`; the only file of this page that differs from app to app, beside sw.js's list.
/** @type {{name: string, model: string, sha256: string, bytes: number, size: number, bundle: string, context: number | null, edgekit: string}} */
export const SETTINGS = {
  name: "Ask a picture",
  model: "model/app/model.json",
  sha256: "",
  bytes: 0,
  size: 0,
  bundle: "",
  context: null,
  edgekit: "",
};
