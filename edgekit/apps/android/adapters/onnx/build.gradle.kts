plugins {
    alias(libs.plugins.android.library)
}

android {
    namespace = "edgekit.onnx"
    compileSdk = 36
    defaultConfig {
        minSdk = 29
    }
    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_17
        targetCompatibility = JavaVersion.VERSION_17
    }
}

dependencies {
    api(project(":core"))
    implementation(libs.onnxruntime)
}
