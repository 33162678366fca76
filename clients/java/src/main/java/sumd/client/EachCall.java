package sumd.client;

import io.grpc.stub.ClientCallStreamObserver;
import io.grpc.stub.ClientResponseObserver;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.function.Consumer;
import sumd.sum.v1.AddEachRequest;
import sumd.sum.v1.AddEachResponse;
import sumd.sum.v1.SumServiceGrpc.SumServiceStub;

/**
 * A call of AddEach: one thread sends while the answers arrive on threads of gRPC.
 *
 * <p>A request stream's {@code onNext} never blocks: what the server does not take piles up in
 * memory. {@link #send} therefore waits until the stream is ready, as flow control has it.
 */
final class EachCall implements ClientResponseObserver<AddEachRequest, AddEachResponse> {

  private final Consumer<AddEachResponse> answers;
  private final CompletableFuture<Void> ended = new CompletableFuture<>();
  private ClientCallStreamObserver<AddEachRequest> requests;

  EachCall(SumServiceStub stub, Consumer<AddEachResponse> answers) {
    this.answers = answers;
    stub.addEach(this);
  }

  /** Waits while the server takes no more; returns false if the call has ended. */
  synchronized boolean send(AddEachRequest request) throws InterruptedException {
    while (!requests.isReady() && !ended.isDone()) {
      wait();
    }
    if (ended.isDone()) {
      return false;
    }
    requests.onNext(request);
    return true;
  }

  /** Says that there are no more messages: the answers to those sent will still come. */
  void finishSending() {
    requests.onCompleted();
  }

  /** Returns after the last answer; throws if the call failed. */
  void await() throws ExecutionException, InterruptedException {
    ended.get();
  }

  @Override
  public void beforeStart(ClientCallStreamObserver<AddEachRequest> requests) {
    this.requests = requests;
    requests.setOnReadyHandler(this::wakeSender);
  }

  @Override
  public void onNext(AddEachResponse answer) {
    answers.accept(answer);
  }

  @Override
  public void onError(Throwable error) {
    ended.completeExceptionally(error);
    wakeSender();
  }

  @Override
  public void onCompleted() {
    ended.complete(null);
    wakeSender();
  }

  private synchronized void wakeSender() {
    notifyAll();
  }
}
