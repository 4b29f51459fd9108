// The few structs of the DLPack C exchange API that gradclip reads.
//
// Layout: DLPack 1.3, https://dmlc.github.io/dlpack/latest/c_api.html. A change of the major version
// changes the layout, so `exchange.cpp` refuses every major version but this one.
#pragma once

#include <cstdint>

namespace dlpack {

constexpr std::uint32_t kMajorVersion = 1;

enum DeviceType : std::int32_t { kCPU = 1, kCUDA = 2, kROCM = 10, kOneAPI = 14 };
enum TypeCode : std::uint8_t { kFloat = 2, kBfloat = 4, kComplex = 5 };

struct Device {
  std::int32_t type;
  std::int32_t id;
};

struct DataType {
  std::uint8_t code;
  std::uint8_t bits;  // of the whole element: 64 for complex64
  std::uint16_t lanes;
};

struct Tensor {
  void* data;
  Device device;
  std::int32_t ndim;
  DataType dtype;
  std::int64_t* shape;    // elements
  std::int64_t* strides;  // elements
  std::uint64_t byte_offset;
};

struct Version {
  std::uint32_t major;
  std::uint32_t minor;
};

struct ManagedTensor {
  Version version;
  void* context;
  void (*deleter)(ManagedTensor* self);
  std::uint64_t flags;
  Tensor tensor;
};

struct ExchangeApi {
  Version version;
  void* previous;
  void* managed_tensor_allocator;
  void* managed_tensor_from_py_object;
  // Takes the managed tensor over and makes a Python tensor of it.
  int (*managed_tensor_to_py_object)(ManagedTensor* tensor, void** object);
  // Fills a caller-owned struct; shape and strides stay the property of the Python object.
  int (*tensor_from_py_object)(void* object, Tensor* out);
  void* current_work_stream;
};

}  // namespace dlpack
