package android.content.res;

/** https://developer.android.com/reference/android/content/res/AssetManager */
public final class AssetManager {
  public java.io.InputStream open(String fileName) throws java.io.IOException { return null; }
}
