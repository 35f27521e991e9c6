package android.app;

/** https://developer.android.com/reference/android/app/Activity */
public class Activity extends android.content.ContextWrapper {
  public Activity() { super(null); }
  protected void onCreate(android.os.Bundle savedInstanceState) {}
}
