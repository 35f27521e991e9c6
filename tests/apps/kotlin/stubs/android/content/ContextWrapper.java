package android.content;

/** https://developer.android.com/reference/android/content/ContextWrapper */
public class ContextWrapper extends Context {
  public ContextWrapper(Context base) {}
  public ContentResolver getContentResolver() { return null; }
  public android.content.res.AssetManager getAssets() { return null; }
  public java.io.File getNoBackupFilesDir() { return null; }
  public java.io.File getFilesDir() { return null; }
  public java.io.File getCacheDir() { return null; }
  public String getPackageName() { return null; }
  public void startActivity(Intent intent) {}
}
