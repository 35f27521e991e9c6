// NOT Apple's SDK: only the declarations of PhotosUI that the sample app uses. Nothing runs. An address above a
// declaration is the page that shows it; what has none goes by its name alone: its page was not looked up.
import Foundation
import SwiftUI

/// https://developer.apple.com/documentation/photosui/photospicker
public struct PhotosPicker: View {
    public init(_ title: String, selection: Binding<PhotosPickerItem?>) {}
    public var body: Never { return fatalError() }
}

/// https://developer.apple.com/documentation/photosui/photospickeritem
public struct PhotosPickerItem: Equatable, Sendable {
    public func loadTransferable(type: Data.Type) async throws -> Data? { fatalError() }
}
