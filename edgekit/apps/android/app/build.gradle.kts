plugins {
    alias(libs.plugins.android.application)
    alias(libs.plugins.kotlin.compose)
}

android {
    namespace = "edgekit.app"
    compileSdk = 36
    defaultConfig {
        applicationId = providers.gradleProperty("edgekit.applicationId").get()
        minSdk = 29
        targetSdk = 36
        versionCode = 1
        versionName = "1.0"
    }
    sourceSets.named("main") {
        kotlin.directories += "src/${providers.gradleProperty("edgekit.target").get()}/kotlin"
    }
    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_17
        targetCompatibility = JavaVersion.VERSION_17
    }
    buildFeatures {
        compose = true
    }
    androidResources {
        // Stored as they are: packed model files would be unpacked in memory to be read.
        noCompress += listOf("onnx", "onnx_data", "pte", "gguf", "rgb")
    }
    buildTypes {
        release {
            isMinifyEnabled = false // native code looks classes up by their names
        }
    }
}

dependencies {
    implementation(project(":core"))
    implementation(project(":adapter"))
    implementation(libs.coroutines.android)
    implementation(libs.activity.compose)
    implementation(platform(libs.compose.bom))
    implementation(libs.compose.foundation)
    implementation(libs.compose.material3)
    implementation(libs.core)
    implementation(libs.exifinterface)
    implementation(libs.lifecycle)
    implementation(libs.work)
}
