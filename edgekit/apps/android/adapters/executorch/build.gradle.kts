plugins {
    alias(libs.plugins.android.library)
}

android {
    namespace = "edgekit.executorch"
    compileSdk = 36
    defaultConfig {
        minSdk = 29
    }
}

dependencies {
    api(project(":core"))
    implementation(libs.executorch)
}
