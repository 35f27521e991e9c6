// NOT Apple's SDK: only the declarations that PictureImage.swift uses, each as the page above it shows it. Nothing runs.
import Foundation

/// https://developer.apple.com/documentation/coregraphics/cgimage
public final class CGImage {
    public var width: Int { fatalError() }
    public var height: Int { fatalError() }
    public var bitsPerComponent: Int { fatalError() }
    public var bitsPerPixel: Int { fatalError() }
    public var bytesPerRow: Int { fatalError() }
    public var colorSpace: CGColorSpace? { fatalError() }
    public var alphaInfo: CGImageAlphaInfo { fatalError() }
    public var bitmapInfo: CGBitmapInfo { fatalError() }
    public var dataProvider: CGDataProvider? { fatalError() }
}

/// https://developer.apple.com/documentation/coregraphics/cgdataprovider
public final class CGDataProvider {
    public var data: CFData? { fatalError() }
}

/// https://developer.apple.com/documentation/coregraphics/cgcolorspace
public final class CGColorSpace {
    public var model: CGColorSpaceModel { fatalError() }
}

/// https://developer.apple.com/documentation/coregraphics/cgcolorspacemodel
public enum CGColorSpaceModel: Int32 { case unknown = -1, monochrome, rgb }

/// https://developer.apple.com/documentation/coregraphics/cgcolorspacecreatedevicergb()
public func CGColorSpaceCreateDeviceRGB() -> CGColorSpace { fatalError() }

/// https://developer.apple.com/documentation/coregraphics/cgimagealphainfo
public enum CGImageAlphaInfo: UInt32 { case none, premultipliedLast, premultipliedFirst, last, first, noneSkipLast, noneSkipFirst, alphaOnly }

/// https://developer.apple.com/documentation/coregraphics/cgbitmapinfo
public struct CGBitmapInfo: OptionSet {
    public let rawValue: UInt32
    public init(rawValue: UInt32) { self.rawValue = rawValue }
    public static let byteOrderMask = CGBitmapInfo(rawValue: 0x7000)
    public static let byteOrder32Big = CGBitmapInfo(rawValue: 4 << 12)
}

/// https://developer.apple.com/documentation/coregraphics/cgcontext
public final class CGContext {
    public init?(
        data: UnsafeMutableRawPointer?, width: Int, height: Int, bitsPerComponent: Int, bytesPerRow: Int, space: CGColorSpace,
        bitmapInfo: UInt32
    ) { fatalError() }
    public func setBlendMode(_ mode: CGBlendMode) {}
    public var interpolationQuality: CGInterpolationQuality { get { fatalError() } set {} }
    public func draw(_ image: CGImage, in rect: CGRect) {}
}

/// https://developer.apple.com/documentation/coregraphics/cgblendmode
public enum CGBlendMode: Int32 { case normal, copy }

/// https://developer.apple.com/documentation/coregraphics/cginterpolationquality
public enum CGInterpolationQuality: Int32 { case `default`, none, low, medium, high }

/// https://developer.apple.com/documentation/corefoundation/cfstring and cfdata: bridged to NSString and NSData there.
public typealias CFString = NSString
public typealias CFData = NSData
