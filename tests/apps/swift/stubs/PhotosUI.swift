// NOT Apple's SDK: only the declarations that the sample app uses, each as the page above it shows it. Nothing runs.
import Foundation
import SwiftUI

/// https://developer.apple.com/documentation/photosui/photospicker
public struct PhotosPicker: View {
    public init(_ title: String, selection: Binding<PhotosPickerItem?>) {}
    public var body: Never { return fatalError() }
}

/// https://developer.apple.com/documentation/photosui/photospickeritem
public struct PhotosPickerItem: Equatable, Sendable {
    /// https://developer.apple.com/documentation/photosui/photospickeritem/loadtransferable(type:)-2jbbl
    public func loadTransferable(type: Data.Type) async throws -> Data? { fatalError() }
}
