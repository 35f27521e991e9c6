package android.content;

/** https://developer.android.com/reference/android/content/Context */
public abstract class Context {
  public abstract ContentResolver getContentResolver();
  public abstract android.content.res.AssetManager getAssets();
  public abstract java.io.File getNoBackupFilesDir();
  public abstract java.io.File getFilesDir();
  public abstract java.io.File getCacheDir();
  public abstract String getPackageName();
  public abstract void startActivity(Intent intent);
  public final <T> T getSystemService(Class<T> serviceClass) { return null; }
}
