package peer;

/** The service that every peer has and calls. */
public interface Echo {
    /** Its argument. */
    String say(String text);

    /** Its argument, after so many milliseconds. */
    String slow(String milliseconds);

    /** Throws a {@link Refusal} with its argument. */
    String fail(String text) throws Refusal;

    /** Returns when so many calls of it are under way at once, which it returns. */
    String rally(String count) throws InterruptedException;

    /** Remembers its argument; see {@link Notes}. */
    String note(String text);

    /** What came under that name with the call: a header, an attachment. */
    String header(String name);

    /** So many letters. */
    String letters(String count);
}
