pluginManagement {
    repositories {
        google()
        mavenCentral()
        gradlePluginPortal()
    }
}

dependencyResolutionManagement {
    repositoriesMode.set(RepositoriesMode.FAIL_ON_PROJECT_REPOS)
    repositories {
        google()
        mavenCentral()
    }
}

rootProject.name = "edgekit-app"
include(":core", ":adapter", ":app")

// The one adapter that the bundle's target needs; gradle.properties names it.
project(":adapter").projectDir = file("adapters/${providers.gradleProperty("edgekit.target").get()}")
