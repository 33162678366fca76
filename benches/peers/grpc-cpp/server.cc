// A gRPC C++ server of sumd's SumService, as the synchronous server in gRPC's hello world.
#include <cstdint>
#include <iostream>
#include <memory>
#include <string>

#include <grpcpp/grpcpp.h>

#include "sum/v1/sum.grpc.pb.h"

using grpc::Server;
using grpc::ServerBuilder;
using grpc::ServerContext;
using grpc::Status;
using sum::v1::AddRequest;
using sum::v1::AddResponse;
using sum::v1::SumService;

// A million values of 31 bits take 5 MB; the default limit is 4 MiB.
constexpr int kMaxMessageBytes = 16 << 20;

class SumServiceImpl final : public SumService::Service {
  Status Add(ServerContext*, const AddRequest* request, AddResponse* reply) override {
    std::int64_t sum = 0;
    for (std::int64_t value : request->values()) {
      sum += value;
    }
    reply->set_sum(sum);
    return Status::OK;
  }
};

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: grpc-cpp HOST:PORT" << std::endl;
    return 64;
  }
  SumServiceImpl service;
  ServerBuilder builder;
  builder.AddListeningPort(argv[1], grpc::InsecureServerCredentials());
  builder.RegisterService(&service);
  builder.SetMaxReceiveMessageSize(kMaxMessageBytes);
  std::unique_ptr<Server> server(builder.BuildAndStart());
  if (!server) {
    std::cerr << "cannot listen on " << argv[1] << std::endl;
    return 1;
  }
  server->Wait();
}
