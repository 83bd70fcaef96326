package io.treering.example;

/** A refusal of the service itself. */
public final class Refused extends RuntimeException {

  /** What a caller can act on. */
  public enum Reason {
    ACCOUNT_EXISTS,
    NO_ACCOUNT,
    NOT_ENOUGH_MONEY,
    NAME_TAKEN,
    INVALID
  }

  private static final long serialVersionUID = 1;

  private final Reason reason;

  Refused(Reason reason, String message) {
    super(message);
    this.reason = reason;
  }

  public Reason reason() {
    return reason;
  }
}
