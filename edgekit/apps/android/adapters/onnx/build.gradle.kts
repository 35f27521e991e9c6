plugins {
    alias(libs.plugins.android.library)
}

android {
    namespace = "edgekit.onnx"
    compileSdk = 36
    defaultConfig {
        minSdk = 29
    }
}

dependencies {
    api(project(":core"))
    implementation(libs.onnxruntime)
}
