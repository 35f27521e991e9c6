package org.pytorch.executorch;

/** https://docs.pytorch.org/executorch/main/javadoc/org/pytorch/executorch/Module.html */
public class Module {
  public static final int LOAD_MODE_MMAP = 1;
  public static Module load(final String modelPath, int loadMode, int numThreads) { return null; }
  public EValue[] execute(String methodName, EValue... inputs) { return null; }
  public int loadMethod(String methodName) { return 0; }
  public void destroy() {}
}
