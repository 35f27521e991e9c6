package ai.onnxruntime;

/** https://onnxruntime.ai/docs/api/java/ai/onnxruntime/OrtException.html */
public class OrtException extends Exception {
  public OrtException(String message) {
    super(message);
  }
}
