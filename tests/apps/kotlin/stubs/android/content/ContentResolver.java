package android.content;

/** https://developer.android.com/reference/android/content/ContentResolver */
public abstract class ContentResolver {
  public final java.io.InputStream openInputStream(android.net.Uri uri) throws java.io.FileNotFoundException { return null; }
}
