package ai.onnxruntime;

import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;

/** https://onnxruntime.ai/docs/api/java/ai/onnxruntime/OrtSession.html */
public class OrtSession implements AutoCloseable {
  private final long nativeHandle;

  OrtSession(long nativeHandle) {
    this.nativeHandle = nativeHandle;
  }

  public Result run(Map<String, ? extends OnnxTensorLike> inputs, Set<String> requestedOutputs) throws OrtException {
    return run(inputs, requestedOutputs, Collections.emptyMap());
  }

  public Result run(
      Map<String, ? extends OnnxTensorLike> inputs,
      Set<String> requestedOutputs,
      Map<String, ? extends OnnxValue> pinnedOutputs)
      throws OrtException {
    String[] inputNames = inputs.keySet().toArray(new String[0]);
    long[] inputHandles = new long[inputNames.length];
    for (int i = 0; i < inputNames.length; i++) {
      inputHandles[i] = inputs.get(inputNames[i]).nativeHandle;
    }
    List<String> outputNames = new ArrayList<>(requestedOutputs);
    for (String name : pinnedOutputs.keySet()) {
      if (requestedOutputs.contains(name)) {
        throw new OrtException("Requested and pinned outputs must be disjoint: " + name);
      }
      outputNames.add(name);
    }
    long[] outputHandles = new long[outputNames.size()];
    for (int i = requestedOutputs.size(); i < outputHandles.length; i++) {
      outputHandles[i] = ((OnnxTensor) pinnedOutputs.get(outputNames.get(i))).nativeHandle;
    }
    Shim.run(nativeHandle, inputNames, inputHandles, outputNames.toArray(new String[0]), outputHandles);
    Map<String, OnnxValue> found = new LinkedHashMap<>();
    for (int i = 0; i < outputHandles.length; i++) {
      String name = outputNames.get(i);
      found.put(name, i < requestedOutputs.size() ? new OnnxTensor(outputHandles[i], null) : pinnedOutputs.get(name));
    }
    return new Result(found, requestedOutputs);
  }

  @Override
  public void close() throws OrtException {
    Shim.releaseSession(nativeHandle);
  }

  /** https://onnxruntime.ai/docs/api/java/ai/onnxruntime/OrtSession.SessionOptions.html */
  public static class SessionOptions implements AutoCloseable {
    int intraOpNumThreads = 1;
    int interOpNumThreads = 1;

    public void setIntraOpNumThreads(int numThreads) throws OrtException {
      intraOpNumThreads = numThreads;
    }

    public void setInterOpNumThreads(int numThreads) throws OrtException {
      interOpNumThreads = numThreads;
    }

    @Override
    public void close() {}
  }

  /** https://onnxruntime.ai/docs/api/java/ai/onnxruntime/OrtSession.Result.html */
  public static class Result implements AutoCloseable {
    private final Map<String, OnnxValue> values;
    private final Set<String> owned;

    Result(Map<String, OnnxValue> values, Set<String> owned) {
      this.values = values;
      this.owned = owned;
    }

    public Optional<OnnxValue> get(String key) {
      return Optional.ofNullable(values.get(key));
    }

    @Override
    public void close() {
      for (String name : owned) {
        values.get(name).close();
      }
    }
  }
}
