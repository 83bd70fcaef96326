package io.treering.example;

import static java.nio.charset.StandardCharsets.UTF_8;
import static java.nio.file.StandardCopyOption.ATOMIC_MOVE;

import com.google.gson.Gson;
import io.grpc.Channel;
import io.treering.Treering.Checkpoint;
import io.treering.Treering.Subscription;
import io.treering.v1.EventStoreServiceGrpc;
import io.treering.v1.Query;
import io.treering.v1.QueryItem;
import io.treering.v1.RecordedEvent;
import io.treering.v1.SubscribeRequest;
import io.treering.v1.SubscribeResponse;
import java.io.FileOutputStream;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.util.HashMap;
import java.util.Map;
import java.util.function.Predicate;

/**
 * A read model: what is in every account. It is kept in a file, together with the checkpoint up to
 * which it was made, so that after a crash no event counts twice and none is missed.
 */
public final class Balances {
  private static final Gson JSON = new Gson();

  private Map<String, Long> cents = new HashMap<>();
  private Checkpoint checkpoint = Checkpoint.BEGINNING;
  private int events;

  private Balances() {}

  /** What is in an account. */
  public long cents(String id) {
    return cents.getOrDefault(id, 0L);
  }

  public Checkpoint checkpoint() {
    return checkpoint;
  }

  /** How many events it was made of. */
  public int events() {
    return events;
  }

  /** What is in the file; nothing, from before all events, if there is none. */
  public static Balances load(Path file) throws IOException {
    try {
      return JSON.fromJson(Files.readString(file), Balances.class);
    } catch (NoSuchFileException e) {
      return new Balances();
    }
  }

  /**
   * Keeps the file up to date.
   *
   * @param goesOn asked whenever all history is in the file, whether to follow what comes
   * @throws InterruptedException if the thread is interrupted: the other way to end it
   */
  public static void follow(Channel channel, Path file, Predicate<Balances> goesOn)
      throws IOException, InterruptedException {
    Balances balances = load(file);
    SubscribeRequest request =
        SubscribeRequest.newBuilder()
            .setQuery(Query.newBuilder().addItems(QueryItem.newBuilder().addCategories("account")))
            .build();
    try (Subscription subscription =
        new Subscription(
            EventStoreServiceGrpc.newStub(channel), balances.checkpoint.startOf(request))) {
      SubscribeResponse response;
      do {
        response = subscription.next();
        for (RecordedEvent event : response.getEvents().getEventsList()) {
          balances.apply(event);
        }
        balances.checkpoint = subscription.checkpoint();
        balances.save(file);
      } while (!response.hasCaughtUp() || goesOn.test(balances));
    }
  }

  private void apply(RecordedEvent event) {
    if (event.getPosition() <= checkpoint.position()) {
      throw new IllegalStateException("the event at " + event.getPosition() + " came twice");
    }
    String id = event.getStream().substring("account-".length());
    cents.merge(id, Accounts.change(event), Long::sum);
    events++;
  }

  /** Replaces the file as a whole: a crash leaves the old one or the new one. */
  private void save(Path file) throws IOException {
    Path written = file.resolveSibling(file.getFileName() + ".new");
    try (FileOutputStream output = new FileOutputStream(written.toFile())) {
      output.write(JSON.toJson(this).getBytes(UTF_8));
      output.getFD().sync();
    }
    Files.move(written, file, ATOMIC_MOVE);
  }
}
