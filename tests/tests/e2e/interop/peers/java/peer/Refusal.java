package peer;

/** A failure that an application declares. */
public class Refusal extends Exception {
    private static final long serialVersionUID = 1L;

    public Refusal(String message) {
        super(message);
    }
}
