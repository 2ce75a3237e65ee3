from prefect import flow

from prefect_video import Shot
from prefect_video.tasks import generate_video


@flow
def weekly_report() -> str:
    opening = Shot(id="opening", prompt="Dawn over a coffee plantation", duration=4, resolution="720p")
    video = generate_video(opening, project="report")  # async flows: await agenerate_video(…)
    return video.uri  # whole, verified, and the same tomorrow


if __name__ == "__main__":
    print(weekly_report())
