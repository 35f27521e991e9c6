package android.app;

/** https://developer.android.com/reference/android/app/Application */
public class Application extends android.content.ContextWrapper {
  public Application() { super(null); }
}
