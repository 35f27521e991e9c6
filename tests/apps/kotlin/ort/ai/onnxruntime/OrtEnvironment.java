package ai.onnxruntime;

/** https://onnxruntime.ai/docs/api/java/ai/onnxruntime/OrtEnvironment.html */
public final class OrtEnvironment implements AutoCloseable {
  private static final OrtEnvironment ONLY = new OrtEnvironment();

  public static OrtEnvironment getEnvironment() {
    return ONLY;
  }

  public OrtSession createSession(String modelPath, OrtSession.SessionOptions options) throws OrtException {
    return new OrtSession(Shim.createSession(modelPath, options.intraOpNumThreads, options.interOpNumThreads));
  }

  @Override
  public void close() {}
}
